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
from reals.evaluation.image_sets import open_images
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
    """What makes samples."""

    generator: Path
    """What ``reals train`` wrote."""
    autoencoder: Path
    """In whose latent space it was trained."""


def generated_samples(
    generators: Mapping[str, TrainedGenerator],
    directory: Path,
    *,
    reference: str,
    count: int,
    seed: int,
    size: int | None,
    device: torch.device,
) -> dict[str, Path]:
    """Return an ``.npz`` of each generator's samples below ``directory``, made unless it is there.

    They are what ``reals sample`` makes unless told otherwise: no guidance, classes in turn, Euler's method for flows
    and ancestral sampling for Gaussian diffusion. Names of files follow from everything that decides the images.
    Processes of a launch share the work. All generators are checked before any samples.

    Args:
        generators: by any name.
        directory: keeps samples.
        reference: what they will be compared with; opened first, so that no samples are made for a mistake.
        count: how many images of each.
        seed: of noise, the same for each.
        size: the side to which the reference is cropped; None takes it as it is.
        device: where networks run.

    Raises:
        UserError: a part is no generator or autoencoder, they do not fit each other, or the reference cannot be read
            or has images of another size.
        Interrupted: a signal asked the process to stop; finished batches stay.
    """
    if generators and count < 1:
        raise UserError(f"--count {count}: give at least 1")
    with main_first():
        for trained in generators.values():
            _check_size(trained, reference, size)
    return {
        name: _samples(trained, directory, count=count, seed=seed, device=device)
        for name, trained in generators.items()
    }


def _samples(trained: TrainedGenerator, directory: Path, *, count: int, seed: int, device: torch.device) -> Path:
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
    return sample_images(
        config, generator, trained.autoencoder, _UNGUIDED, output, seed=seed, precision=_PRECISION, device=device
    )


def discard_samples(output: Path) -> None:
    """Delete what :func:`generated_samples` returned, with its card and picture."""
    if dist.is_main():
        for suffix in (".json", ".png", ".npz"):
            output.with_suffix(suffix).unlink(missing_ok=True)


def _check_size(trained: TrainedGenerator, reference: str, size: int | None) -> None:
    images = open_images(reference, size)
    path = trained.generator / _FILES[0]
    content: Any = read_json(path)
    card = from_dict(GeneratorCard, content, str(path))
    side = card.grid * LatentCodec.from_directory(trained.autoencoder).downsampling
    if (images.height, images.width) != (side, side):
        raise UserError(
            f"{reference} has images of {images.width}x{images.height}, {trained.generator} makes {side}x{side}; "
            f"--size {side} crops image files and datasets"
        )
