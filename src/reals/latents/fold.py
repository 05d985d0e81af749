"""Moves the normalisation z_n = (z - shift) · scale from ``config.json`` into the autoencoder's weights.

The two numbers then sit in the 1x1 convolutions after the encoder and before the decoder, which have no padding: the
result is exact up to rounding, at the borders too. Latents leave ``encode`` normalised, and nobody can forget to shift.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.latents.align import AlignHeads
from reals.latents.features import FeatureStatistics
from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import AutoencoderKL, latent_channels
from reals.runtime.errors import UserError


def folded_part(normalisation: LatentNormalisation, pipeline_factor: float = 1.0) -> LatentNormalisation:
    """Return the map that weights must contain so that multiplying by ``pipeline_factor`` completes the normalisation.

    Raises:
        UserError: there is nothing to fold.
    """
    if (normalisation.shift, normalisation.scale) == (0.0, pipeline_factor):
        raise UserError(f"there is nothing to fold: its shift is 0 and its scale {pipeline_factor:g}; export factors")
    return LatentNormalisation(shift=normalisation.shift, scale=normalisation.scale / pipeline_factor)


def fold_normalisation(autoencoder: AutoencoderKL, pipeline_factor: float = 1.0) -> AutoencoderKL:
    """Return a copy whose raw latents, times ``pipeline_factor``, are the normalised ones of ``autoencoder``.

    Its shift is 0 and its scaling factor ``pipeline_factor``: 1, unless it is meant for a program that multiplies by a
    number of its own. A missing ``quant_conv`` or ``post_quant_conv`` (Flux, SD3) is added: the neighbouring 3x3
    convolution pads with zeros, so a shift moved into that one would be wrong along the border.

    Raises:
        UserError: there is nothing to fold, or ``config.json`` normalises each channel by itself.
    """
    normalisation = folded_part(LatentNormalisation.of(autoencoder), pipeline_factor)
    convolutions = _folded_convolutions(autoencoder.state_dict(), latent_channels(autoencoder), normalisation)
    network: Any = type(autoencoder)
    changes: dict[str, Any] = {"use_quant_conv": True, "use_post_quant_conv": True}
    # Not None: diffusers' Flux and SD3 pipelines add the shift without asking.
    changes |= {"scaling_factor": pipeline_factor, "shift_factor": 0.0}
    # The names with underscores are diffusers' notes; one of them would turn changes back into defaults.
    config = {name: value for name, value in autoencoder.config.items() if not name.startswith("_")}
    folded = network.from_config({**config, **changes})
    folded.load_state_dict({**autoencoder.state_dict(), **convolutions})
    nn.Module.to(folded, next(autoencoder.parameters()).device)
    return folded.eval()


def _folded_convolutions(
    tensors: Mapping[str, Tensor], channels: int, normalisation: LatentNormalisation
) -> dict[str, Tensor]:
    """Return weights and biases of both 1x1 convolutions, the affine map included."""
    shift, scale = normalisation.shift, normalisation.scale
    weight, bias = _convolution(tensors, "quant_conv", 2 * channels)
    # The mean is mapped; the deviation is scaled, so its logarithm gains one constant. diffusers clamps afterwards.
    factors = torch.tensor([scale, 1.0], dtype=torch.float64).repeat_interleave(channels)
    offsets = torch.tensor([-shift * scale, 2 * math.log(abs(scale))], dtype=torch.float64).repeat_interleave(channels)
    encode = {"weight": weight * factors[:, None, None, None], "bias": bias * factors + offsets}
    weight, bias = _convolution(tensors, "post_quant_conv", channels)
    decode = {"weight": weight / scale, "bias": bias + weight.sum(dim=(1, 2, 3)) * shift}
    folded = {f"quant_conv.{name}": tensor for name, tensor in encode.items()}
    folded |= {f"post_quant_conv.{name}": tensor for name, tensor in decode.items()}
    dtype = tensors["decoder.conv_in.weight"].dtype
    return {name: tensor.to(dtype) for name, tensor in folded.items()}


def _convolution(
    tensors: Mapping[str, Tensor], name: str, channels: int
) -> tuple[Float[Tensor, "c c 1 1"], Float[Tensor, " c"]]:
    """Return a 1x1 convolution in float64; the identity where the autoencoder has none."""
    if f"{name}.weight" in tensors:
        return tensors[f"{name}.weight"].cpu().double(), tensors[f"{name}.bias"].cpu().double()
    return torch.eye(channels, dtype=torch.float64)[:, :, None, None], torch.zeros(channels, dtype=torch.float64)


def fold_heads(heads: AlignHeads, normalisation: LatentNormalisation) -> AlignHeads:
    """Return a copy that predicts from latents after ``normalisation`` what ``heads`` predict from those before it.

    Both heads begin with a linear layer, and the pooled one with a mean over cells, so this is exact, too.
    """
    tensors = {name: tensor.clone() for name, tensor in heads.state_dict().items()}
    for head in ("patch_head", "pooled_head"):
        if f"{head}.0.weight" not in tensors:
            continue
        weight = tensors[f"{head}.0.weight"].double()
        bias = tensors[f"{head}.0.bias"].double()
        tensors[f"{head}.0.weight"] = (weight / normalisation.scale).float()
        tensors[f"{head}.0.bias"] = (bias + weight.sum(dim=1) * normalisation.shift).float()
    statistics = FeatureStatistics(**{name: tensors[name] for name in FeatureStatistics._fields})
    folded = heads.config.build(heads.latent_channels, statistics)
    folded.load_state_dict(tensors)
    nn.Module.to(folded, next(heads.parameters()).device)
    return folded.eval()
