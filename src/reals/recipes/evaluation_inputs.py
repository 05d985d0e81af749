"""Samples that ``reals evaluate`` makes itself, by the defaults of ``reals sample``, where it is given a generator."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reals.diffusion.gaussian import DDPM
from reals.diffusion.solvers import Euler
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.shared_extraction import main_first
from reals.latents.codec import LatentCodec
from reals.recipes.generator import GeneratorCard, is_gaussian
from reals.recipes.sampling import sample_images
from reals.recipes.schema import SamplingConfig
from reals.runtime import dist
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, sha256_file
from reals.runtime.progress import say
from reals.training.precision import autocast_dtype

_FILES = ("config.json", "model.safetensors")
_PRECISION = "auto"
_UNGUIDED = 1.0


def is_generator(location: str) -> bool:
    """Return whether a location of samples is the directory of a generator, not of images."""
    return all((Path(location).expanduser() / name).is_file() for name in _FILES)


@dataclass(frozen=True)
class TrainedGenerator:
    """A network that makes samples, and the one that decodes them."""

    generator: Path
    """What ``reals train`` wrote."""
    autoencoder: Path
    """In whose latent space it was trained."""


@dataclass(frozen=True)
class MadeSamples:
    """What :func:`generated_samples` returns for each generator."""

    path: Path
    """Of the ``.npz``."""
    new: bool
    """Whether it was not there before."""


def generated_samples(
    generators: Mapping[str, TrainedGenerator],
    directory: Path,
    *,
    reference: ImageSet,
    count: int,
    seed: int,
    device: torch.device,
) -> dict[str, MadeSamples]:
    """Return an ``.npz`` of each generator's samples below ``directory``, made unless it is there.

    They are what ``reals sample`` makes unless told otherwise: no guidance, classes in turn, Euler's method for flows
    and ancestral sampling for Gaussian diffusion. Names of files follow from everything that decides the images.
    Processes of a launch share the work. All generators are checked before any samples.

    Args:
        generators: by any name.
        directory: keeps samples.
        reference: what they will be compared with.
        count: how many images of each.
        seed: of noise, the same for each.
        device: where networks run.

    Raises:
        UserError: a part is no generator or autoencoder, they do not fit each other, or the reference has images of
            another size.
        Interrupted: a signal asked the process to stop; finished batches stay.
    """
    if generators and count < 1:
        raise UserError(f"--count {count}: give at least 1")
    with main_first():
        for trained in generators.values():
            _check_size(trained, reference)
    return {
        name: _samples(trained, directory, count=count, seed=seed, device=device)
        for name, trained in generators.items()
    }


def _samples(trained: TrainedGenerator, directory: Path, *, count: int, seed: int, device: torch.device) -> MadeSamples:
    generator = trained.generator
    config = SamplingConfig(count=count, solver=DDPM() if is_gaussian(generator) else Euler())
    identity = {
        "files": [sha256_file(generator / name) for name in _FILES],
        "sampling": to_dict(config),
        "seed": seed,
        "dtype": str(autocast_dtype(_PRECISION)),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    output = directory / f"{name}.npz"
    say(f"samples: {count} of {generator} in {output}")
    new = not output.exists()
    sample_images(
        config, generator, trained.autoencoder, _UNGUIDED, output, seed=seed, precision=_PRECISION, device=device
    )
    return MadeSamples(output, new)


def discard_samples(made: MadeSamples) -> None:
    """Delete samples with their card and picture, unless they were there before."""
    if made.new and dist.is_main():
        for suffix in (".json", ".png", ".npz"):
            made.path.with_suffix(suffix).unlink(missing_ok=True)


def _check_size(trained: TrainedGenerator, reference: ImageSet) -> None:
    path = trained.generator / _FILES[0]
    content: Any = read_json(path)
    card = from_dict(GeneratorCard, content, str(path))
    side = card.grid * LatentCodec.from_directory(trained.autoencoder).downsampling
    if (reference.height, reference.width) != (side, side):
        raise UserError(
            f"{reference.location} has images of {reference.width}x{reference.height}, {trained.generator} makes "
            f"{side}x{side}; --size {side} crops image files and datasets"
        )
