"""``reals align``, ``encode``, ``train`` and ``sample``: the stages of a run, one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reals.apps.generate import BalancedLabels, RandomLabels
from reals.cli.parse import parse, take_option
from reals.cli.recipe_flags import RecipeFlags, take_recipe
from reals.data.store import ImageStore
from reals.diffusion.process import Sampler
from reals.diffusion.solvers import Euler
from reals.models.autoencoder import load_autoencoder
from reals.recipes.checks import check_generator, check_networks
from reals.recipes.data import decode_photos, open_photos, prepare_store
from reals.recipes.generator import is_gaussian
from reals.recipes.pipeline import open_preview, prepare_process
from reals.recipes.repa_features import open_generator_features
from reals.recipes.sampling import sample_images
from reals.recipes.schema import SamplingConfig
from reals.recipes.stage_one import (
    align_autoencoder,
    ensure_statistics,
    latent_side,
    starting_autoencoder,
)
from reals.recipes.stage_two import encode_store, open_latents, train_generator
from reals.recipes.variants import LABELS, SOLVERS, pick, with_diffusion, with_last_step
from reals.recipes.workspace import RunDirectory
from reals.runtime.errors import UserError
from reals.runtime.io import refuse_file
from reals.runtime.pixels import Rounding
from reals.runtime.progress import say
from reals.training.config import Precision


@dataclass(frozen=True, kw_only=True)
class AlignArguments:
    """Stage 1: train or fine-tune an autoencoder so that its latents predict a frozen encoder's features.

    ``OUT/autoencoder`` is the result: plain diffusers loads it; latent statistics and alignment heads lie beside it.
    ``--align.weight 0`` trains the same without alignment.
    """

    data: str
    """Zip or folder of class folders, flat folder, Parquet, or hf:OWNER/NAME; scenes:COUNT renders scenes."""
    out: Path
    """Directory for the autoencoder, its checkpoints and caches."""
    recipe: RecipeFlags


@dataclass(frozen=True, kw_only=True)
class EncodeArguments:
    """Cache mean and log-variance of every training photo's posterior, original and mirrored.

    An autoencoder without latent statistics (a plain diffusers one) is copied to ``OUT/autoencoder`` with statistics
    measured on these photos; use that copy afterwards.
    """

    data: str
    """The photos, or the ``images`` directory of an earlier command."""
    autoencoder: str
    """Directory of the autoencoder, or a hub id."""
    out: Path
    """Directory for the cache: ``OUT/latents``."""
    recipe: RecipeFlags


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Stage 2: train a diffusion transformer on cached latents; ``OUT/generator`` is the result.

    ``--process gaussian`` trains a DiT; ``--interpolant``, ``--prediction``, ``--weighting`` and ``--times`` change
    what a SiT learns; ``--transformer XL/2`` chooses a published size, ``--tracker wandb`` where the log goes.
    """

    latents: Path
    """What ``reals encode`` wrote: its ``latents`` directory."""
    autoencoder: Path
    """The autoencoder that made them; it holds the latents' normalisation."""
    out: Path
    """Directory for the generator and its checkpoints."""
    images: Path | None = None
    """The ``images`` directory that the latents are of, for REPA and previews; by default the one beside them."""
    recipe: RecipeFlags


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Generate images into an ``.npz`` (``arr_0``: uint8, NHWC; ``arr_1``: labels) and a picture beside it.

    Image i depends on the seed and i alone, not on the batch size nor on the number of processes, which share the
    images under ``torchrun``. A call that was stopped goes on where it was.
    """

    generator: Path
    """What ``reals train`` wrote: its ``generator`` directory."""
    autoencoder: Path
    """The autoencoder in whose latent space it was trained."""
    out: Path
    """The ``.npz`` to write."""
    count: Annotated[int, tyro.conf.arg(aliases=["--num"])] = 64
    """How many images."""
    guidance_scale: float = 1.0
    """Guidance; 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels (1 = pure noise) between which guidance is on; the paper's setting is 0 0.75."""
    guidance_channels: int | None = None
    """Guide only this many leading channels, or None for all; SiT's and DiT's published numbers guide 3 of 4."""
    weaker_generator: Path | None = None
    """Guide by the difference from this smaller or less trained generator (autoguidance), not by leaving out the class.
    """
    labels: RandomLabels | BalancedLabels = BalancedLabels()
    """Which class each image is of; choose with --labels balanced or --labels random."""
    batch_size: int = 250
    """Images at once."""
    precision: Precision = "auto"
    """bfloat16 autocast; auto takes it where the hardware computes in it."""
    seed: int = 0
    """Seeds noise and random labels."""
    png_zip: bool = False
    """Write the images as PNG into a ``.zip`` beside the ``.npz``, too."""
    rounding: Rounding = "nearest"
    """How pixels become bytes: nearest as SiT and DiT round, repa as REPA truncates, half a byte darker."""
    compile: bool = False
    """Compile the network with torch.compile: a minute or more at the start, then faster steps on a GPU."""
    solver: Annotated[Sampler, tyro.conf.arg(name="solver")] = Euler()
    """How noise is carried to data; choose with --sampler, and with --diffusion and --last-step for stochastic ones."""

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> SamplingConfig:
        """Return what is to be sampled, its ranges checked."""
        return SamplingConfig(
            count=self.count,
            solver=self.solver,
            guidance_scales=(self.guidance_scale,),
            guidance_interval=self.guidance_interval,
            guidance_channels=self.guidance_channels,
            labels=self.labels,
            batch_size=self.batch_size,
        )


def align(arguments: Sequence[str]) -> None:
    """Parse and run ``reals align``."""
    command, recipe, rest = take_recipe("align", arguments, "photos32")
    parsed = parse(AlignArguments, rest, verb=command, recipe=recipe)
    device, recipe, run = prepare_process(), parsed.recipe, RunDirectory(parsed.out)
    run.check(parsed.data, recipe)
    latent_side(recipe)
    check_networks(recipe, run, device, aligned=True)
    photos = open_photos(parsed.data, recipe.data)
    run.claim(parsed.data, recipe)
    store = decode_photos(photos, run.images, recipe.data)
    start = starting_autoencoder(recipe, store, run, device)
    finished = run.path / "autoencoder"
    align_autoencoder(recipe, store, start, run.features, run.path / "autoencoder-training", finished, device)
    say(f"autoencoder: {finished}")


def encode(arguments: Sequence[str]) -> None:
    """Parse and run ``reals encode``."""
    command, recipe, rest = take_recipe("encode", arguments, "photos32")
    parsed = parse(EncodeArguments, rest, verb=command, recipe=recipe)
    device = prepare_process()
    refuse_file(parsed.out)
    load_autoencoder(parsed.autoencoder)
    store = prepare_store(parsed.data, parsed.out / "images", parsed.recipe.data)
    autoencoder = ensure_statistics(parsed.recipe, store, parsed.autoencoder, parsed.out / "autoencoder", device)
    encode_store(parsed.recipe, store, autoencoder, parsed.out / "latents", device)
    say(f"autoencoder: {autoencoder}")
    say(f"latents:     {parsed.out / 'latents'}")


def train(arguments: Sequence[str]) -> None:
    """Parse and run ``reals train``."""
    command, recipe, rest = take_recipe("train", arguments, "photos32")
    parsed = parse(TrainArguments, rest, verb=command, recipe=recipe)
    device, recipe = prepare_process(), parsed.recipe
    check_generator(recipe)
    run = RunDirectory(parsed.out)
    latents = open_latents(parsed.latents)
    store = _photos_of(parsed) if recipe.repa or recipe.generator_training.preview.every else None
    run.claim(str(parsed.latents), recipe)
    finished = parsed.out / "generator"
    features = preview = None
    if store is not None and not (finished / "config.json").exists():
        preview = open_preview(recipe, store, parsed.autoencoder, device)
        if recipe.repa:
            start = str(parsed.autoencoder)
            features = open_generator_features(recipe, store, start, run.features, run.all_features, device)
    train_generator(
        recipe,
        latents,
        parsed.autoencoder,
        parsed.out / "generator-training",
        finished,
        device,
        features=features,
        preview=preview,
    )
    say(f"generator: {finished}")


def _photos_of(parsed: TrainArguments) -> ImageStore:
    images = parsed.images or parsed.latents.parent / "images"
    if not ImageStore.complete(images):
        raise UserError(f"{images}: no decoded photos, which REPA and previews need; give them with --images")
    return ImageStore(images)


def sample(arguments: Sequence[str]) -> None:
    """Parse and run ``reals sample``."""
    solver, rest = _take_solver(arguments)
    protocol, rest = take_option(rest, "--labels", "balanced")
    labels = pick("--labels", protocol, LABELS)
    parsed = parse(SampleArguments, rest, verb="sample", solver=solver, labels=labels)
    device = prepare_process()
    refuse_file(parsed.out.parent, "give a path below a directory as --out")
    output = sample_images(
        parsed.config(),
        parsed.generator,
        parsed.autoencoder,
        parsed.guidance_scale,
        parsed.out,
        seed=parsed.seed,
        precision=parsed.precision,
        device=device,
        weaker=parsed.weaker_generator,
        png_zip=parsed.png_zip,
        compiled=parsed.compile,
        rounding=parsed.rounding,
    )
    say(f"samples: {output}")
    say(f"picture: {output.with_suffix('.png')}")


def _take_solver(arguments: Sequence[str]) -> tuple[Sampler, list[str]]:
    """Return the sampler that ``arguments`` choose; by default one that fits the generator."""
    generator, _ = take_option(arguments, "--generator", "")
    fitting = "ddpm" if generator and is_gaussian(Path(generator)) else "euler"
    name, rest = take_option(arguments, "--sampler", fitting)
    solver = pick("--sampler", name, SOLVERS)
    diffusion, rest = take_option(rest, "--diffusion", "")
    last_step, rest = take_option(rest, "--last-step", "")
    if diffusion:
        solver = with_diffusion(solver, diffusion)
    return (with_last_step(solver, last_step) if last_step else solver), rest
