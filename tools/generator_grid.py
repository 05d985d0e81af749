"""Train generators in latent spaces that exist already: each space with and without REPA, several seeds, several gains.

``python tools/generator_grid.py OUT baseline=RUN_A/aligned aligned=RUN_B/aligned --repa 0 0.5 --seeds 0 1 2``. A space
is an arm of a run, ``RUN/ARM``: its autoencoder and cached latents are used, everything else follows the first one's
recipe. All generators are judged by the first run's classifier, against the same photos. Finished ones are kept; with
``--part 0 --parts 2`` and its twin two single-threaded processes share the work. A table comes last.

Differences are paired by seed; the interval is Student's over the seeds, so it covers everything that a seed decides in
stage 2. The autoencoders are the same in all of them.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy import stats

from reals.data.store import ImageStore
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.evaluation.image_sets import open_images
from reals.evaluation.networks import FeatureNetwork, extract, lite_features
from reals.latents.codec import LatentCodec
from reals.models.autoencoder import save_autoencoder
from reals.recipes.measure import Judges
from reals.recipes.pipeline import photo_classifier, prepare_process
from reals.recipes.repa_features import open_generator_features
from reals.recipes.sampling import sample_images
from reals.recipes.schema import Recipe
from reals.recipes.stage_one import STATISTICS_NAME
from reals.recipes.stage_two import encode_store, train_generator
from reals.recipes.workspace import RunDirectory
from reals.runtime.config import from_dict
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.io import read_json, write_json
from reals.training.trackers import NoTracker


@dataclass(frozen=True)
class Arguments:
    """What to train."""

    out: tyro.conf.Positional[Path]
    """Directory of the grid."""
    spaces: tyro.conf.Positional[tuple[str, ...]]
    """Latent spaces, each NAME=RUN/ARM; the first is what the others are compared with."""
    repa: tuple[float, ...] = (0.0,)
    """λ of REPA; 0 is none."""
    repa_block: int = 2
    """The block after which REPA aligns tokens."""
    repa_hidden: int = 512
    """Width of REPA's projector."""
    gains: tuple[float, ...] = (1.0,)
    """Factors on the normalised latents."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of stage 2: weights, order, noise and samples."""
    steps: int = 500
    """Steps of each generator."""
    samples: int = 1000
    """Samples per guidance scale."""
    part: int = 0
    """Which share of the generators to train."""
    parts: int = 1
    """Into how many shares they are cut; with several, nothing is summed up."""


@dataclass(frozen=True)
class Cell:
    """One generator to train."""

    space: str
    location: Path
    repa: float
    gain: float
    seed: int

    @property
    def group(self) -> str:
        """What the seeds of a cell have in common."""
        gain = "" if self.gain == 1.0 else f", gain {self.gain:g}"
        return self.space + (f" + REPA {self.repa:g}" if self.repa else "") + gain

    @property
    def directory(self) -> str:
        """Its name in the grid's directory."""
        return f"{self.space}-repa-{self.repa:g}-gain-{self.gain:g}-seed-{self.seed}"


class Grid:
    """What all cells share."""

    def __init__(self, arguments: Arguments, device: torch.device):
        self.arguments, self.device = arguments, device
        self.spaces = dict(_space(text) for text in arguments.spaces)
        self.run = RunDirectory(next(iter(self.spaces.values())).parent)
        recipe = from_dict(Recipe, read_json(self.run.description)["recipe"])
        self.recipe = replace(
            recipe,
            stage2=replace(recipe.stage2, steps=arguments.steps),
            sampling=replace(recipe.sampling, count=arguments.samples),
            generator_training=replace(recipe.generator_training, tracker=NoTracker()),
        )
        self.store = ImageStore(self.run.images)
        classifier = photo_classifier(recipe, self.store, self.run.classifier, device)
        self.networks: tuple[FeatureNetwork, ...] = (classifier, lite_features(self.store.size, device))
        self._references: dict[str, Any] = {}

    def cells(self) -> list[Cell]:
        """Return all generators, seeds outermost, so that a stopped grid has whole comparisons."""
        given = self.arguments
        return [
            Cell(space, location, repa, gain, seed)
            for seed in given.seeds
            for gain in given.gains
            for repa in given.repa
            for space, location in self.spaces.items()
        ]

    def measure(self, cell: Cell) -> dict[str, float]:
        """Train, sample and judge one generator, unless that is done."""
        directory = self.arguments.out / cell.directory
        result = directory / "result.json"
        if result.exists():
            return read_json(result)
        recipe = self._recipe(cell)
        autoencoder, latents = self._space(cell)
        encoded = encode_store(recipe, self.store, autoencoder, latents, self.device)
        features = None
        if recipe.repa:
            cached = self.run.all_features
            features = open_generator_features(
                recipe, self.store, str(autoencoder), self.run.features, cached, self.device
            )
        generator = directory / "generator"
        training = directory / "generator-training"
        train_generator(recipe, encoded, autoencoder, training, generator, self.device, features=features)
        measured: dict[str, float] = {}
        for scale in recipe.sampling.scales(labelled=self.store.labelled):
            output = sample_images(
                recipe.sampling,
                generator,
                autoencoder,
                scale,
                directory / f"guidance-{scale:g}.npz",
                seed=recipe.sampling_seed,
                precision=recipe.stage2.precision,
                device=self.device,
            )
            images = np.concatenate(list(open_images(str(output)).blocks(250)))
            for network in self.networks:
                made = gaussian_statistics(extract(network, images))
                measured[f"fd/{network.name}/guidance-{scale:g}"] = frechet_distance(self._reference(network), made)
        write_json(result, measured)
        return measured

    def _recipe(self, cell: Cell) -> Recipe:
        training = self.recipe.generator_training
        repa = replace(
            training.repa, weight=cell.repa, block=self.arguments.repa_block, hidden=self.arguments.repa_hidden
        )
        return replace(self.recipe, seed=cell.seed, generator_training=replace(training, repa=repa))

    def _space(self, cell: Cell) -> tuple[Path, Path]:
        """Return the directories of autoencoder and latents; with a gain, of an autoencoder that differs in scale."""
        if cell.gain == 1.0:
            return cell.location / "autoencoder", cell.location / "latents"
        home = self.arguments.out / f"{cell.space}-gain-{cell.gain:g}"
        autoencoder, latents = home / "autoencoder", home / "latents"
        if not (autoencoder / STATISTICS_NAME).exists():
            codec = LatentCodec.from_directory(cell.location / "autoencoder", self.device)
            changed = replace(codec.normalisation, scale=codec.normalisation.scale * cell.gain)
            changed.attach(codec.autoencoder)
            save_autoencoder(codec.autoencoder, autoencoder)
            write_json(autoencoder / STATISTICS_NAME, read_json(cell.location / "autoencoder" / STATISTICS_NAME))
        # Posteriors do not depend on the scale, only the file that names the autoencoder does.
        latents.mkdir(parents=True, exist_ok=True)
        for path in (cell.location / "latents").iterdir():
            if path.name != "index.json" and not (latents / path.name).exists():
                (latents / path.name).symlink_to(path.resolve())
        return autoencoder, latents

    def _reference(self, network: FeatureNetwork) -> Any:
        if network.name not in self._references:
            rows = Judges(self.recipe, self.store, ()).reference_rows
            self._references[network.name] = gaussian_statistics(extract(network, self.store.load(rows)))
        return self._references[network.name]


def _space(text: str) -> tuple[str, Path]:
    name, separator, location = text.partition("=")
    if not (name and separator and (Path(location) / "latents" / "index.json").exists()):
        raise UserError(f"'{text}' is no NAME=RUN/ARM with cached latents")
    return name, Path(location)


def table(results: dict[Cell, dict[str, float]]) -> str:
    """Return means over seeds, and differences from the first group paired by seed, as Markdown."""
    groups: dict[str, dict[int, dict[str, float]]] = {}
    for cell, measured in results.items():
        groups.setdefault(cell.group, {})[cell.seed] = measured
    names = list(next(iter(results.values())))
    first = next(iter(groups))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for group, seeds in groups.items():
        cells = []
        for name in names:
            values = np.array([measured[name] for measured in seeds.values()])
            text = f"{values.mean():.4g}"
            if group != first:
                common = sorted(seeds.keys() & groups[first].keys())
                before = np.array([groups[first][seed][name] for seed in common])
                change = np.array([seeds[seed][name] for seed in common]) / before - 1.0
                text += f" ({change.mean():+.1%}{_interval(change)})"
            cells.append(text)
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(values: np.ndarray) -> str:
    if len(values) < 2:
        return ""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    return f"; {values.mean() - half:+.1%} to {values.mean() + half:+.1%}"


def main() -> None:
    """Do the cells, then the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    device = prepare_process()
    try:
        grid = Grid(arguments, device)
        mine = grid.cells()[arguments.part :: arguments.parts]
        results = {cell: grid.measure(cell) for cell in mine}
    except UserError as error:
        sys.exit(f"generator_grid: {error}")
    except Interrupted as interruption:
        sys.exit(f"generator_grid: {interruption}; run the same command again to go on")
    if arguments.parts == 1:
        write_json(arguments.out / "grid.json", {cell.directory: measured for cell, measured in results.items()})
        sys.stdout.write(table(results))


if __name__ == "__main__":
    main()
