"""Train stage 1 at every point of a grid of λ_a, λ_k and latent channels, each from the same start, and analyse all.

``python tools/sweep.py PHOTOS OUT --channels 4 16 --align 0 0.1 0.3 1 --kl 2e-5 8e-5``. Points of equal channels start
from one autoencoder trained without alignment. With ``--generator`` every point also gets a generator, samples and
measurements by one shared classifier, for ``tools/rank_correlation.py``. With ``--part 0 --parts 2`` and its twin two
single-threaded processes share the grid; call it once more without parts to analyse. Finished points are kept.
"""

import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from filelock import FileLock

from reals.recipes.analysis import analyse
from reals.recipes.analysis_config import AnalysisConfig
from reals.recipes.data import prepare_store
from reals.recipes.features import open_features
from reals.recipes.pipeline import photo_classifier, prepare_process, run_pipeline
from reals.recipes.presets import preset
from reals.recipes.schema import Pretrained, Recipe, Scratch
from reals.recipes.stage_one import align_autoencoder, starting_autoencoder
from reals.recipes.workspace import RunDirectory
from reals.runtime.errors import Interrupted, UserError


@dataclass(frozen=True)
class Arguments:
    """What to sweep."""

    photos: tyro.conf.Positional[str]
    """Photos, or the images directory of an earlier run."""
    out: tyro.conf.Positional[Path]
    """Directory of the sweep."""
    recipe: str = "photos32"
    """Recipe with an autoencoder trained from scratch; its other numbers stay."""
    channels: tuple[int, ...] = (4, 16)
    """Latent channels."""
    align: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    """λ_a."""
    kl: tuple[float, ...] = (2e-5, 8e-5)
    """λ_k, in the part of stage 1 in which points differ."""
    generator: bool = False
    """Also train, sample and measure a generator at each point."""
    stage2_steps: int = 500
    """Steps of each generator."""
    samples: int = 1000
    """Samples per guidance scale of each generator."""
    part: int = 0
    """Which share of the points to do."""
    parts: int = 1
    """Into how many shares the points are cut; with several, nothing is analysed."""
    images: int = 1000
    """Held-out photos of the analysis."""


def main() -> None:
    """Do the points, then the analysis."""
    arguments = tyro.cli(Arguments, description=__doc__)
    device = prepare_process()
    try:
        points = [_point(arguments, *values, device) for values in _share(arguments)]
        if arguments.parts == 1:
            analyse(points, arguments.out / "analysis", AnalysisConfig(images=arguments.images), device=device)
    except UserError as error:
        sys.exit(f"sweep: {error}")
    except Interrupted as interruption:
        sys.exit(f"sweep: {interruption}; run the same command again to go on")


def _share(arguments: Arguments) -> list[tuple[int, float, float]]:
    grid = itertools.product(arguments.channels, arguments.kl, arguments.align)
    return list(grid)[arguments.part :: arguments.parts]


def _point(arguments: Arguments, channels: int, kl: float, weight: float, device: torch.device) -> Path:
    """Train one point and return its directory."""
    out, recipe = arguments.out, _recipe(arguments, channels)
    out.mkdir(parents=True, exist_ok=True)
    # What all points share is made by whichever process comes first.
    with FileLock(out / "shared.lock"):
        store = prepare_store(arguments.photos, out / "images", recipe.data)
        start = starting_autoencoder(recipe, store, RunDirectory(out / f"start-{channels}-channels"), device)
        open_features(recipe, store, start, out / "features", device)
        if arguments.generator:
            photo_classifier(recipe, store, out / "classifier", device)
    recipe = replace(
        recipe,
        autoencoder=Pretrained(location=start),
        objective=replace(recipe.objective, kl=kl),
        align=replace(recipe.align, weight=weight),
    )
    run = RunDirectory(out / f"channels-{channels}-kl-{kl:g}-align-{weight:g}")
    run.claim(str(store.directory), recipe)
    _link(run.images, store.directory)
    _link(run.features, out / "features")
    if arguments.generator:
        _link(run.classifier, out / "classifier")
        run_pipeline(str(store.directory), run.path, recipe, ("aligned",))
    else:
        finished = run.path / "autoencoder"
        align_autoencoder(recipe, store, start, run.features, run.path / "autoencoder-training", finished, device)
    return run.path


def _recipe(arguments: Arguments, channels: int) -> Recipe:
    recipe = preset(arguments.recipe)
    if not isinstance(recipe.autoencoder, Scratch):
        raise UserError(f"{arguments.recipe}: starts from a pretrained autoencoder; give a recipe that trains its own")
    architecture = replace(recipe.autoencoder.architecture, latent_channels=channels)
    return replace(
        recipe,
        autoencoder=replace(recipe.autoencoder, architecture=architecture),
        stage2=replace(recipe.stage2, steps=arguments.stage2_steps),
        sampling=replace(recipe.sampling, count=arguments.samples),
        evaluation=replace(recipe.evaluation, reference_images=5000, held_out_images=2000, replicates=100),
    )


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() and target.exists() and not link.exists():
        link.symlink_to(target.resolve(), target_is_directory=True)


if __name__ == "__main__":
    main()
