"""The architecture of an ``AutoencoderKL``, read from the shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reals.runtime.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
else:
    AutoencoderKL = nn.Module

NORM_GROUPS = 32
"""Groups of every normalisation in latent-diffusion's code. No tensor's shape depends on it."""


def autoencoder_arguments(tensors: Mapping[str, Tensor], norm_groups: int = NORM_GROUPS) -> dict[str, Any]:
    """Return the arguments of diffusers' ``AutoencoderKL`` that tensors under its names call for.

    Raises:
        UserError: the tensors are not those of an autoencoder with a Gaussian posterior, or diffusers has no class
            that computes with them.
    """
    widths = _widths(tensors)
    latent_channels = _shape(tensors, "decoder.conv_in.weight")[1]
    _check_posterior(tensors, latent_channels)
    for width in widths:
        if norm_groups < 1 or width % norm_groups:
            raise UserError(f"a level has {width} channels, no multiple of {norm_groups} groups; give --norm-groups")
    attention = [f"encoder.down_blocks.{i}.attentions.0.to_q.weight" in tensors for i in range(len(widths))]
    mirrored = [f"decoder.up_blocks.{i}.attentions.0.to_q.weight" in tensors for i in range(len(widths))]
    return {
        "in_channels": _shape(tensors, "encoder.conv_in.weight")[1],
        "out_channels": _shape(tensors, "decoder.conv_out.weight")[0],
        "down_block_types": tuple("AttnDownEncoderBlock2D" if has else "DownEncoderBlock2D" for has in attention),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if has else "UpDecoderBlock2D" for has in mirrored),
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": latent_channels,
        "norm_num_groups": norm_groups,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in tensors,
        "scaling_factor": 1.0,
    }


def build_from_tensors(tensors: Mapping[str, Tensor], norm_groups: int = NORM_GROUPS) -> AutoencoderKL:
    """Return an autoencoder with these weights, float32, in evaluation mode, not normalised (scaling factor 1).

    Raises:
        UserError: as :func:`autoencoder_arguments`, or a tensor is missing, left over, or of another shape.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Network

    arguments = autoencoder_arguments(tensors, norm_groups)
    with torch.device("meta"):
        network = Network(**arguments)
    wanted = network.state_dict()
    for name in wanted:
        if name not in tensors:
            raise UserError(f"the weights lack '{name}'; give a checkpoint that holds the whole autoencoder")
    for name, tensor in tensors.items():
        if name not in wanted:
            raise UserError(f"the weights have '{name}', for which an AutoencoderKL of this shape has no place")
        if tensor.shape != wanted[name].shape:
            expected = tuple(wanted[name].shape)
            raise UserError(f"'{name}' has the shape {tuple(tensor.shape)}, where the other tensors want {expected}")
    network.load_state_dict({name: tensor.float().contiguous() for name, tensor in tensors.items()}, assign=True)
    return network.eval()


def _widths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    levels = _count(tensors, r"encoder\.down_blocks\.(\d+)\.")
    return tuple(_shape(tensors, f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels))


def _check_posterior(tensors: Mapping[str, Tensor], latent_channels: int) -> None:
    """Refuse encoders without log-variance (VQ), and codes that are narrower or wider than the decoder's input."""
    encoded = _shape(tensors, "encoder.conv_out.weight")[0]
    if encoded != 2 * latent_channels:
        raise UserError(
            f"the encoder gives {encoded} channels and the decoder takes {latent_channels}: "
            "that is no mean and log-variance; only autoencoders with a Gaussian posterior are read"
        )
    for name, axis, expected in (("quant_conv.weight", 0, encoded), ("post_quant_conv.weight", 1, latent_channels)):
        if name in tensors and _shape(tensors, name)[axis] != expected:
            found = _shape(tensors, name)[axis]
            raise UserError(f"'{name}' has {found} channels instead of {expected}; diffusers has no such AutoencoderKL")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"the weights lack '{name}'; give a checkpoint that holds the whole autoencoder")
    return tuple(tensors[name].shape)
