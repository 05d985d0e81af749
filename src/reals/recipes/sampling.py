"""A finished generator and its autoencoder together: from a seed to images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from reals.apps.generate import generate, sample_latents
from reals.latents.codec import LatentCodec
from reals.models.fingerprint import weights_fingerprint
from reals.models.transformer import Transformer
from reals.recipes.generator import load_generator
from reals.recipes.preview import PreviewSample
from reals.recipes.schema import Recipe, SamplingConfig
from reals.runtime.errors import UserError
from reals.runtime.pixels import Rounding
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
    weaker: Path | None = None,
    png_zip: bool = False,
    compiled: bool = False,
    rounding: Rounding = "nearest",
) -> Path:
    """Generate ``config.count`` images at one guidance scale into ``output``, resuming an interrupted call.

    With ``weaker``, another generator in the same latent space, guidance is autoguidance by it. ``compiled`` networks
    take a minute to begin with. ``rounding`` is how pixels become bytes; the card tells where it is not the usual one.

    Raises:
        UserError: the generator was trained in another autoencoder's latent space, has no classes to guide by, or does
            not fit the solver or the weaker one.
    """
    transformer, card = load_generator(generator, device)
    codec = LatentCodec.from_directory(autoencoder, device)
    if codec.fingerprint != card.autoencoder_fingerprint:
        raise UserError(f"{autoencoder}: not the autoencoder in whose latent space {generator} was trained")
    guide, guide_fingerprint = None, {}
    if weaker is not None:
        guide, weaker_card = load_generator(weaker, device)
        if replace(weaker_card, transformer=card.transformer, steps=card.steps) != card:
            raise UserError(f"{weaker}: trained in another latent space, process or set of classes than {generator}")
        guide_fingerprint = {"weaker": weights_fingerprint(guide)}
    elif scale != 1.0 and not card.labelled:
        raise UserError(
            f"{generator}: trained without labels, so there is nothing to guide by; use guidance scale 1, or a weaker "
            "generator"
        )
    if compiled:
        for network in (transformer, *(() if guide is None else (guide,))):
            network.compile()
    return generate(
        transformer,
        partial(codec.decode_uint8, rounding=rounding),
        count=config.count,
        output=output,
        solver=config.solver,
        guidance=config.guidance(scale),
        labels=config.labels,
        process=card.process,
        weaker=guide,
        seed=seed,
        batch_size=config.batch_size,
        png_zip=png_zip,
        dtype=autocast_dtype(precision),
        provenance={
            "generator": weights_fingerprint(transformer),
            "autoencoder": card.autoencoder_fingerprint,
            "trained_steps": card.steps,
            **guide_fingerprint,
            # Left out for the usual rule, so that samples of before it was recorded are still continued.
            **({} if rounding == "nearest" else {"rounding": rounding}),
        },
    )


def preview_sample(recipe: Recipe, autoencoder: Path, *, labelled: bool, device: torch.device) -> PreviewSample:
    """Return what makes the samples of a preview: by the recipe's solver, at its strongest guidance.

    Image i is the one that the finished generator would make for the recipe's i-th sample with these weights.
    """
    codec = LatentCodec.from_directory(autoencoder, device)
    sampling, dtype = recipe.sampling, autocast_dtype(recipe.stage2.precision)
    guidance = sampling.guidance(max(sampling.scales(labelled=labelled)))

    def sample(network: nn.Module, count: int) -> UInt8[np.ndarray, "n h w 3"]:
        if not isinstance(network, Transformer):
            raise ValueError(f"a preview samples a Transformer, not a {type(network).__name__}")
        images = []
        for start in range(0, count, sampling.batch_size):
            indices = range(start, min(start + sampling.batch_size, count))
            labels = [sampling.labels.label(i, network.num_classes, recipe.sampling_seed) for i in indices]
            latents = sample_latents(
                network,
                torch.tensor(labels),
                indices,
                seed=recipe.sampling_seed,
                solver=sampling.solver,
                guidance=guidance,
                process=recipe.process,
                dtype=dtype,
            )
            images.append(codec.decode_uint8(latents))
        return np.concatenate(images)

    return sample
