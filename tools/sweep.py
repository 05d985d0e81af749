"""Train stage 1 at every point of a grid of λ_a, λ_k and latent channels, each from the same start, and analyse all.

``python tools/sweep.py PHOTOS OUT --channels 4 16 --align 0 0.1 0.3 1 --kl 2e-5 8e-5``. Points of equal channels start
from one autoencoder trained without alignment. With ``--generator`` every point also gets a generator, samples and
measurements by one shared classifier, for ``tools/rank_correlation.py``. Photos that the recipe's own run holds out are
left out altogether, so that what is chosen here can be reported there. With ``--part 0 --parts 2`` and its twin two
single-threaded processes share the grid; call it once more without parts to analyse. Finished points are kept.
"""

import hashlib
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from filelock import FileLock
from PIL import Image

from reals.data.sources import ImageSource
from reals.data.split import held_out_mask
from reals.data.store import ImageStore, prepare_images
from reals.recipes.analysis import analyse
from reals.recipes.analysis_config import AnalysisConfig
from reals.recipes.data import open_data
from reals.recipes.features import open_features
from reals.recipes.pipeline import photo_classifier, prepare_process, run_pipeline
from reals.recipes.presets import preset
from reals.recipes.schema import Pretrained, Recipe, Scratch
from reals.recipes.stage_one import align_autoencoder, starting_autoencoder
from reals.recipes.workspace import RunDirectory
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.seed import derive_seed

# Of the photos that are used.
_HELD_OUT = 0.2


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
    start_steps: int | None = None
    """Steps of the autoencoder that points start from; None is the recipe's."""
    steps: int | None = None
    """Steps of each point's stage 1; None is the recipe's."""
    photos_used: int = 10_000
    """How many photos the sweep uses, at most, chosen at random."""
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
        store = _photos(arguments, recipe, out / "images")
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


def _photos(arguments: Arguments, recipe: Recipe, directory: Path) -> ImageStore:
    """Return a store of photos that the recipe's own run trains on; a fifth of them is held out here."""
    if not ImageStore.complete(directory):
        source = open_data(arguments.photos, recipe.data.image_size)
        kept = np.flatnonzero(~held_out_mask(source.keys, recipe.data.held_out_fraction, source.location))
        generator = np.random.default_rng(derive_seed(recipe.seed, "sweep"))
        chosen = np.sort(generator.permutation(kept)[: arguments.photos_used])
        fraction = recipe.data.held_out_fraction
        prepare_images(Part(source, chosen), directory, recipe.data.image_size, fraction + _HELD_OUT * (1.0 - fraction))
    return ImageStore(directory)


class Part:
    """Some images of a source."""

    def __init__(self, source: ImageSource, rows: np.ndarray):
        self._source, self._rows = source, rows
        self.location, self.class_names = source.location, source.class_names
        self.keys = [source.keys[row] for row in rows.tolist()]
        self.labels = None if source.labels is None else source.labels[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int) -> Image.Image:
        """Decode image ``index`` of the part."""
        return self._source.load(int(self._rows[index]))

    def fingerprint(self) -> str:
        """Return a hash of the source and of which images are taken."""
        return hashlib.sha256(self._source.fingerprint().encode() + self._rows.tobytes()).hexdigest()


def _recipe(arguments: Arguments, channels: int) -> Recipe:
    recipe = preset(arguments.recipe)
    if not isinstance(recipe.autoencoder, Scratch):
        raise UserError(f"{arguments.recipe}: starts from a pretrained autoencoder; give a recipe that trains its own")
    scratch = recipe.autoencoder
    stage1, start = recipe.stage1.training, scratch.training
    return replace(
        recipe,
        autoencoder=replace(
            scratch,
            architecture=replace(scratch.architecture, latent_channels=channels),
            training=replace(start, steps=arguments.start_steps or start.steps),
        ),
        stage1=replace(recipe.stage1, training=replace(stage1, steps=arguments.steps or stage1.steps)),
        stage2=replace(recipe.stage2, steps=arguments.stage2_steps),
        sampling=replace(recipe.sampling, count=arguments.samples),
        evaluation=replace(recipe.evaluation, reference_images=5000, held_out_images=2000, replicates=100),
    )


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() and target.exists() and not link.exists():
        link.symlink_to(target.resolve(), target_is_directory=True)


if __name__ == "__main__":
    main()
