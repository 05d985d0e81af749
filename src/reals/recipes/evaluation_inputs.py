"""Samples that ``reals evaluate`` makes itself, by the defaults of ``reals sample``, where it is given a generator."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from reals.diffusion.gaussian import DDPM
from reals.diffusion.solvers import Euler
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.precision_recall import NEIGHBOURS
from reals.evaluation.shared_extraction import main_first, main_says, main_tells
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


@contextmanager
def samples_directory(cache: Path, *, keep: bool) -> Iterator[Path]:
    """Yield where samples go: ``cache``, or a directory inside it that is deleted in the end, whatever happens."""
    if keep:
        yield cache
        return
    own = ""
    if dist.is_main():
        cache.mkdir(parents=True, exist_ok=True)
        own = tempfile.mkdtemp(prefix=".", dir=cache)
    directory = Path(main_tells(own))
    try:
        yield directory
    finally:
        if dist.is_main():
            shutil.rmtree(directory, ignore_errors=True)


def generated_samples(
    generators: Mapping[str, TrainedGenerator],
    directory: Path,
    *,
    reference: ImageSet,
    count: int,
    seed: int,
    device: torch.device,
) -> dict[str, Path]:
    """Return an ``.npz`` of each generator's samples below ``directory``, made unless it is there.

    They are what ``reals sample`` makes unless told otherwise: no guidance, classes in turn, Euler's method for flows
    and ancestral sampling for Gaussian diffusion. Names of files follow from everything that decides the images.
    Processes of a launch share the work. All generators are checked before any samples. Of two launches that want the
    same samples one makes them, while the other waits.

    Args:
        generators: by any name.
        directory: keeps samples.
        reference: what they will be compared with.
        count: how many images of each.
        seed: of noise, the same for each.
        device: where networks run.

    Raises:
        UserError: a part is no generator or autoencoder, they do not fit each other, the reference has images of
            another size, or ``count`` is too small.
        Interrupted: a signal asked the process to stop; finished batches stay.
    """
    if count <= NEIGHBOURS:
        raise UserError(f"--count {count}: give at least {NEIGHBOURS + 1}")
    with main_first():
        for trained in generators.values():
            _check(trained, reference)
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
    directory.mkdir(parents=True, exist_ok=True)
    say(f"samples: {count} of {generator} in {output}")
    # The other processes of this launch wait for the main one where sampling begins.
    with FileLock(directory / f".{name}.lock") if dist.is_main() else nullcontext():
        if main_says(_finished(output)):
            say(f"{output}: already there")
            return output
        return sample_images(
            config, generator, trained.autoencoder, _UNGUIDED, output, seed=seed, precision=_PRECISION, device=device
        )


def _finished(output: Path) -> bool:
    """Return whether samples are whole; what their card would say of them decides their name, without any network."""
    card, leftovers = output.with_suffix(".json"), output.with_suffix(".partial")
    return output.exists() and card.exists() and not leftovers.exists()


def _check(trained: TrainedGenerator, reference: ImageSet) -> None:
    path = trained.generator / _FILES[0]
    content: Any = read_json(path)
    card = from_dict(GeneratorCard, content, str(path))
    codec = LatentCodec.from_directory(trained.autoencoder)
    if codec.fingerprint != card.autoencoder_fingerprint:
        raise UserError(
            f"{trained.autoencoder}: not the autoencoder in whose latent space {trained.generator} was trained"
        )
    side = card.grid * codec.downsampling
    if (reference.height, reference.width) != (side, side):
        raise UserError(
            f"{reference.location} has images of {reference.width}x{reference.height}, {trained.generator} makes "
            f"{side}x{side}; --size {side} crops image files and datasets"
        )
