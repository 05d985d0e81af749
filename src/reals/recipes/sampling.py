"""A finished generator and its autoencoder together: from a seed to images."""

from pathlib import Path

import torch

from reals.apps.generate import generate
from reals.latents.codec import LatentCodec
from reals.models.fingerprint import weights_fingerprint
from reals.recipes.generator import load_generator
from reals.recipes.schema import SamplingConfig
from reals.runtime.errors import UserError
from reals.training.config import Precision
from reals.training.precision import autocast_dtype


def sample_images(
    config: SamplingConfig,
    generator: Path,
    autoencoder: Path,
    scale: float,
    output: Path,
    *,
    seed: int,
    precision: Precision,
    device: torch.device,
) -> Path:
    """Generate ``config.count`` images at one guidance scale into ``output``, resuming an interrupted call.

    Raises:
        UserError: the generator was trained in another autoencoder's latent space, or has no classes to guide by.
    """
    transformer, card = load_generator(generator, device)
    codec = LatentCodec.from_directory(autoencoder, device)
    if codec.fingerprint != card.autoencoder_fingerprint:
        raise UserError(f"{autoencoder}: not the autoencoder in whose latent space {generator} was trained")
    if scale != 1.0 and not card.labelled:
        raise UserError(f"{generator}: trained without labels, so there is nothing to guide by; use guidance scale 1")
    return generate(
        transformer,
        codec.decode_uint8,
        count=config.count,
        output=output,
        solver=config.solver,
        guidance=config.guidance(scale),
        labels=config.labels,
        seed=seed,
        batch_size=config.batch_size,
        dtype=autocast_dtype(precision),
        provenance={
            "generator": weights_fingerprint(transformer),
            "autoencoder": card.autoencoder_fingerprint,
            "trained_steps": card.steps,
        },
    )
