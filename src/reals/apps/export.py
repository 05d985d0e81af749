"""``reals export``: an autoencoder as other programs want it, with its normalisation in numbers or in weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from reals.apps.origin import Mode, Origin, alignment_of, public_name, read_origin
from reals.latents.align import CONFIG_NAME, AlignHeads
from reals.latents.fold import fold_heads, fold_normalisation
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import STATISTICS_NAME, mapped_statistics, read_statistics, write_statistics
from reals.models.autoencoder import AutoencoderKL, load_autoencoder, save_autoencoder
from reals.runtime.errors import UserError
from reals.runtime.io import refuse_existing
from reals.runtime.progress import say

Precision = Literal["float32", "float16", "bfloat16"]

Extras = list[Callable[[Path], object]]


def export_autoencoder(
    location: str, out: Path, *, normalisation: Mode = "factors", dtype: Precision = "float32"
) -> Path:
    """Write the autoencoder at ``location`` (directory or hub id) to the new directory ``out``, and return ``out``.

    Plain ``diffusers.AutoencoderKL.from_pretrained`` loads it. ``"factors"`` keeps shift and scale as numbers in
    ``config.json``; ``"folded"`` moves them into the weights, so that ``encode`` gives normalised latents.
    ``mean_std.json`` and alignment heads, where there are any, go along; both always concern the latents that this
    very directory's ``encode`` gives.

    Raises:
        UserError: it cannot be loaded, ``out`` exists, there is nothing to fold, or the numbers do not fit ``dtype``.
    """
    refuse_existing(out)
    source = Path(location).expanduser()
    autoencoder = load_autoencoder(location)
    before = LatentNormalisation.of(autoencoder)
    extras: Extras = []
    if (source / STATISTICS_NAME).exists():
        statistics = read_statistics(source)
        if normalisation == "folded":
            statistics = mapped_statistics(statistics, before.shift, before.scale)
        extras.append(lambda directory: write_statistics(directory, statistics))
    else:
        say(f"{location}: has no {STATISTICS_NAME}, so none is written; reals encode measures one on photos")
    if (source / CONFIG_NAME).exists():
        heads = AlignHeads.load(source)
        extras.append((fold_heads(heads, before) if normalisation == "folded" else heads).save)
    if normalisation == "folded":
        try:
            autoencoder = fold_normalisation(autoencoder)
        except UserError as error:
            raise UserError(f"{location}: {error}") from None
    extras.append(_origin(location, normalisation, before).write)
    save_autoencoder(_in_precision(autoencoder, dtype), out, extras)
    return out


def _origin(location: str, normalisation: Mode, before: LatentNormalisation) -> Origin:
    source = Path(location).expanduser()
    earlier = read_origin(source)
    if earlier is not None and earlier.normalisation == "folded":
        # Whoever copies a folded autoencoder gets a folded one.
        normalisation, before = "folded", earlier.map
    return Origin(
        source=public_name(location),
        weights="as they were" if earlier is None else earlier.weights,
        normalisation=normalisation,
        map=before,
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
