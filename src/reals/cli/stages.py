"""``reals align``, ``encode``, ``train`` and ``sample``: the stages of a run, one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reals.apps.generate import BalancedLabels, RandomLabels
from reals.cli.parse import parse, take_option
from reals.cli.pipeline import RecipeFlags
from reals.diffusion.solvers import Euler, EulerMaruyama, Heun
from reals.models.autoencoder import load_autoencoder
from reals.recipes.checks import check_networks
from reals.recipes.data import decode_photos, open_photos, prepare_store
from reals.recipes.pipeline import prepare_process
from reals.recipes.presets import preset
from reals.recipes.sampling import sample_images
from reals.recipes.schema import SamplingConfig
from reals.recipes.stage_one import (
    align_autoencoder,
    ensure_statistics,
    latent_side,
    starting_autoencoder,
)
from reals.recipes.stage_two import encode_store, open_latents, train_generator
from reals.recipes.workspace import RunDirectory, refuse_file
from reals.runtime.errors import UserError, nearest
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
    """Stage 2: train a diffusion transformer on cached latents; ``OUT/generator`` is the result."""

    latents: Path
    """What ``reals encode`` wrote: its ``latents`` directory."""
    autoencoder: Path
    """The autoencoder that made them; it holds the latents' normalisation."""
    out: Path
    """Directory for the generator and its checkpoints."""
    recipe: RecipeFlags


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Generate images into an ``.npz`` (``arr_0``: uint8, NHWC) and a picture beside it.

    Image i depends on the seed and i alone, not on the batch size.
    """

    generator: Path
    """What ``reals train`` wrote: its ``generator`` directory."""
    autoencoder: Path
    """The autoencoder in whose latent space it was trained."""
    out: Path
    """The ``.npz`` to write."""
    count: int = 64
    """How many images."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels (1 = pure noise) between which guidance is on; the paper's setting is 0 0.75."""
    labels: RandomLabels | BalancedLabels = BalancedLabels()
    """Which class each image is of; choose with --labels balanced or --labels random."""
    batch_size: int = 250
    """Images at once."""
    precision: Precision = "auto"
    """bfloat16 autocast; auto takes it where the hardware computes in it."""
    seed: int = 0
    """Seeds noise and random labels."""
    solver: Annotated[Euler | Heun | EulerMaruyama, tyro.conf.arg(name="solver")] = Euler()
    """How the flow is integrated; choose with --sampler."""

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> SamplingConfig:
        """Return what is to be sampled, its ranges checked."""
        return SamplingConfig(
            count=self.count,
            solver=self.solver,
            guidance_scales=(self.guidance_scale,),
            guidance_interval=self.guidance_interval,
            labels=self.labels,
            batch_size=self.batch_size,
        )


_LABELS = {"balanced": BalancedLabels(), "random": RandomLabels()}
_SOLVERS = {"euler": Euler(), "heun": Heun(), "euler-maruyama": EulerMaruyama()}


def align(arguments: Sequence[str]) -> None:
    """Parse and run ``reals align``."""
    name, rest = take_option(arguments, "--recipe", "photos32")
    parsed = parse(AlignArguments, rest, verb=f"align --recipe {name}", recipe=preset(name))
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
    name, rest = take_option(arguments, "--recipe", "photos32")
    parsed = parse(EncodeArguments, rest, verb=f"encode --recipe {name}", recipe=preset(name))
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
    name, rest = take_option(arguments, "--recipe", "photos32")
    parsed = parse(TrainArguments, rest, verb=f"train --recipe {name}", recipe=preset(name))
    device = prepare_process()
    run = RunDirectory(parsed.out)
    latents = open_latents(parsed.latents)
    run.claim(str(parsed.latents), parsed.recipe)
    finished = parsed.out / "generator"
    train_generator(
        parsed.recipe,
        latents,
        parsed.autoencoder,
        parsed.out / "generator-training",
        finished,
        device,
    )
    say(f"generator: {finished}")


def sample(arguments: Sequence[str]) -> None:
    """Parse and run ``reals sample``."""
    name, rest = take_option(arguments, "--sampler", "euler")
    if name not in _SOLVERS:
        raise UserError(f"--sampler: unknown '{name}'{nearest(name, _SOLVERS)}")
    protocol, rest = take_option(rest, "--labels", "balanced")
    if protocol not in _LABELS:
        raise UserError(f"--labels: unknown '{protocol}'{nearest(protocol, _LABELS)}")
    parsed = parse(SampleArguments, rest, verb="sample", solver=_SOLVERS[name], labels=_LABELS[protocol])
    device = prepare_process()
    refuse_file(parsed.out.parent)
    output = sample_images(
        parsed.config(),
        parsed.generator,
        parsed.autoencoder,
        parsed.guidance_scale,
        parsed.out,
        seed=parsed.seed,
        precision=parsed.precision,
        device=device,
    )
    say(f"samples: {output}")
    say(f"picture: {output.with_suffix('.png')}")
