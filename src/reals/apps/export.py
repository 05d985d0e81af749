"""``reals export``: an autoencoder as other programs want it, with its normalisation in numbers or in weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from reals.apps.origin import Mode, Origin, alignment_of, public_name, read_origin, without_statistics
from reals.latents.align import CONFIG_NAME, AlignHeads
from reals.latents.fold import fold_heads, fold_normalisation, folded_part
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import STATISTICS_NAME, mapped_statistics, read_statistics, write_statistics
from reals.models.autoencoder import AutoencoderKL, load_autoencoder, save_autoencoder
from reals.runtime.errors import UserError
from reals.runtime.io import refuse_existing
from reals.runtime.progress import say

Precision = Literal["float32", "float16", "bfloat16"]

Extras = list[Callable[[Path], object]]


def export_autoencoder(
    location: str,
    out: Path,
    *,
    normalisation: Mode = "factors",
    dtype: Precision = "float32",
    pipeline_factor: float = 1.0,
) -> Path:
    """Write the autoencoder at ``location`` (directory or hub id) to the new directory ``out``, and return ``out``.

    Plain ``diffusers.AutoencoderKL.from_pretrained`` loads it. ``"factors"`` keeps shift and scale as numbers in
    ``config.json``; ``"folded"`` moves them into the weights, so that ``encode`` gives normalised latents, or what
    ``pipeline_factor`` times which is normalised. ``mean_std.json`` and alignment heads, where there are any, go
    along; both always concern the latents that this very directory's ``encode`` gives.

    Raises:
        UserError: it cannot be loaded, ``out`` exists, there is nothing to fold, or the numbers do not fit ``dtype``.
    """
    refuse_existing(out)
    if not (math.isfinite(pipeline_factor) and pipeline_factor > 0.0):
        raise UserError(f"--pipeline-factor {pipeline_factor}: it must be positive")
    if normalisation == "factors" and pipeline_factor != 1.0:
        raise UserError("--pipeline-factor: is of use with --normalisation folded only")
    autoencoder = load_autoencoder(location)
    folded: LatentNormalisation | None = None
    if normalisation == "folded":
        try:
            folded = folded_part(LatentNormalisation.of(autoencoder), pipeline_factor)
        except UserError as error:
            raise UserError(f"{location}: {error}") from None
    extras = _companions(location, folded)
    extras.append(_origin(location, LatentNormalisation.of(autoencoder), folded).write)
    if folded is not None:
        autoencoder = fold_normalisation(autoencoder, pipeline_factor)
    save_autoencoder(_in_precision(autoencoder, dtype), out, extras)
    return out


def _companions(location: str, folded: LatentNormalisation | None) -> Extras:
    """Return what writes statistics and alignment heads, both of the latents that folding leaves."""
    source, extras = Path(location).expanduser(), Extras()
    if (source / STATISTICS_NAME).exists():
        statistics = read_statistics(source)
        if folded is not None:
            statistics = mapped_statistics(statistics, folded.shift, folded.scale)
        extras.append(lambda directory: write_statistics(directory, statistics))
    else:
        say(without_statistics(location))
    if (source / CONFIG_NAME).exists():
        heads = AlignHeads.load(source)
        extras.append((heads if folded is None else fold_heads(heads, folded)).save)
    return extras


def _origin(location: str, before: LatentNormalisation, folded: LatentNormalisation | None) -> Origin:
    source = Path(location).expanduser()
    earlier = read_origin(source)
    if earlier is not None and earlier.normalisation == "folded":
        # What was folded once stays so; (z - s₁) k₁, then (z - s₂) k₂.
        first = earlier.map
        folded = (
            first
            if folded is None
            else LatentNormalisation(shift=first.shift + folded.shift / first.scale, scale=first.scale * folded.scale)
        )
    return Origin(
        source=public_name(location),
        weights="as they were" if earlier is None else earlier.weights,
        normalisation="factors" if folded is None else "folded",
        map=before if folded is None else folded,
        alignment=alignment_of(source),
    )


def _in_precision(autoencoder: AutoencoderKL, dtype: Precision) -> AutoencoderKL:
    wanted: torch.dtype = getattr(torch, dtype)
    for name, tensor in autoencoder.state_dict().items():
        if not torch.isfinite(tensor.to(wanted)).all():
            raise UserError(f"--dtype {dtype}: '{name}' has values that it cannot hold; take bfloat16 or float32")
    # diffusers' own `to` warns about every change of type.
    nn.Module.to(autoencoder, wanted)
    return autoencoder
