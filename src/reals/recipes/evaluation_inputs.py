"""Samples that ``reals evaluate`` makes itself, by the defaults of ``reals sample``, where it is given a generator."""

import hashlib
import json
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


def generated_samples(
    generator: Path,
    autoencoder: Path,
    directory: Path,
    *,
    reference: str,
    count: int,
    seed: int,
    size: int | None,
    device: torch.device,
) -> Path:
    """Return an ``.npz`` of samples below ``directory``, made unless it is there; processes of a launch share the work.

    They are what ``reals sample`` makes unless told otherwise: no guidance, classes in turn, Euler's method for flows
    and ancestral sampling for Gaussian diffusion. Its name follows from everything that decides the images.

    Args:
        generator: what ``reals train`` wrote.
        autoencoder: in whose latent space it was trained.
        directory: keeps samples.
        reference: what they will be compared with; opened first, so that no samples are made for a mistake.
        count: how many images.
        seed: of noise.
        size: the side to which the reference is cropped; None takes it as it is.
        device: where networks run.

    Raises:
        UserError: a part is no generator or autoencoder, they do not fit each other, or the reference cannot be read
            or has images of another size.
        Interrupted: a signal asked the process to stop; finished batches stay.
    """
    if count < 1:
        raise UserError(f"--count {count}: give at least 1")
    with main_first():
        _check_size(generator, autoencoder, reference, size)
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
        config, generator, autoencoder, _UNGUIDED, output, seed=seed, precision=_PRECISION, device=device
    )


def discard_samples(output: Path) -> None:
    """Delete what :func:`generated_samples` returned, with its card and picture."""
    if dist.is_main():
        for suffix in (".json", ".png", ".npz"):
            output.with_suffix(suffix).unlink(missing_ok=True)


def _check_size(generator: Path, autoencoder: Path, reference: str, size: int | None) -> None:
    images = open_images(reference, size)
    path = generator / _FILES[0]
    content: Any = read_json(path)
    side = from_dict(GeneratorCard, content, str(path)).grid * LatentCodec.from_directory(autoencoder).downsampling
    if (images.height, images.width) != (side, side):
        raise UserError(
            f"{reference} has images of {images.width}x{images.height}, {generator} makes {side}x{side}; "
            f"--size {side} crops image files and datasets"
        )
