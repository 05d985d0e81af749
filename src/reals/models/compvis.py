"""The two names of every tensor of a KL autoencoder: latent-diffusion's (CompVis) and diffusers'.

The networks are the same, layer by layer. Names differ, the decoder's levels are counted from opposite ends, and
attention's projections are 1x1 convolutions in one and linear layers in the other.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from reals.runtime.errors import UserError

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""What the name of every tensor of an autoencoder begins with, in both layouts."""

# (diffusers, CompVis) for the modules that hold layers; {i} counts levels, {j} what is inside a level.
_PLACES = (
    ("encoder.down_blocks.{i}.resnets.{j}.", "encoder.down.{i}.block.{j}."),
    ("encoder.down_blocks.{i}.attentions.{j}.", "encoder.down.{i}.attn.{j}."),
    ("encoder.down_blocks.{i}.downsamplers.0.", "encoder.down.{i}.downsample."),
    ("encoder.mid_block.resnets.0.", "encoder.mid.block_1."),
    ("encoder.mid_block.resnets.1.", "encoder.mid.block_2."),
    ("encoder.mid_block.attentions.0.", "encoder.mid.attn_1."),
    ("encoder.conv_norm_out.", "encoder.norm_out."),
    ("decoder.up_blocks.{i}.resnets.{j}.", "decoder.up.{i}.block.{j}."),
    ("decoder.up_blocks.{i}.attentions.{j}.", "decoder.up.{i}.attn.{j}."),
    ("decoder.up_blocks.{i}.upsamplers.0.", "decoder.up.{i}.upsample."),
    ("decoder.mid_block.resnets.0.", "decoder.mid.block_1."),
    ("decoder.mid_block.resnets.1.", "decoder.mid.block_2."),
    ("decoder.mid_block.attentions.0.", "decoder.mid.attn_1."),
    ("decoder.conv_norm_out.", "decoder.norm_out."),
)
_SAME = ("encoder.conv_in.", "encoder.conv_out.", "decoder.conv_in.", "decoder.conv_out.", *PARTS[2:])
_IN_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_IN_BLOCK = {"conv_shortcut": "nin_shortcut"}
# What diffusers called attention's layers before 0.18.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LINEAR = tuple(f"{layer}.weight" for layer in ("to_q", "to_k", "to_v", "to_out.0"))


def is_compvis(names: Mapping[str, object]) -> bool:
    """Return whether an autoencoder's tensors have CompVis's names; diffusers' say ``down_blocks``."""
    return not any(name.startswith("encoder.down_blocks.") for name in names)


def from_compvis(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an autoencoder's tensors under diffusers' names and shapes.

    Raises:
        UserError: a name belongs to no layer of such an autoencoder.
    """
    levels = _levels(tensors, "decoder.up.")
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _rename(name, levels, to_diffusers=True)
        renamed[new] = tensor.flatten(1) if _is_attention_weight(new) else tensor
    return renamed


def to_compvis(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an autoencoder's tensors, given as diffusers has them, under CompVis's names and shapes.

    Raises:
        UserError: a name belongs to no layer of such an autoencoder.
    """
    levels = _levels(tensors, "decoder.up_blocks.")
    return {
        _rename(name, levels, to_diffusers=False): tensor[:, :, None, None] if _is_attention_weight(name) else tensor
        for name, tensor in tensors.items()
    }


def to_current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return diffusers' tensors with the attention layers' present names and shapes; older files have others."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        if ".attentions." in name:
            for old, current in _OLD_ATTENTION.items():
                new = re.sub(rf"\.{old}(?=\.(weight|bias)$)", f".{current}", new)
        renamed[new] = tensor.flatten(1) if _is_attention_weight(new) else tensor
    return renamed


def _is_attention_weight(name: str) -> bool:
    return ".attentions." in name and name.endswith(_LINEAR)


def _levels(names: Mapping[str, object], prefix: str) -> int:
    """Return how many levels the decoder has."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _rename(name: str, levels: int, *, to_diffusers: bool) -> str:
    if name.startswith(_SAME):
        return name
    for pair in _PLACES:
        old, new = pair[::-1] if to_diffusers else pair
        pattern = re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
        match = re.match(pattern, name)
        if match is None:
            continue
        numbers = {key: int(value) for key, value in match.groupdict().items()}
        if ".up" in new:
            # CompVis counts the decoder's levels from the finest, diffusers in the order in which they run.
            numbers["i"] = levels - 1 - numbers["i"]
        return new.format(**numbers) + _layer(name[match.end() :], pair[0], to_diffusers=to_diffusers)
    raise UserError(f"'{name}' is no tensor of a KL autoencoder; only latent-diffusion's and diffusers' are read")


def _layer(name: str, place: str, *, to_diffusers: bool) -> str:
    """Rename what a module calls one of its layers."""
    table = _IN_ATTENTION if "attentions" in place else _IN_BLOCK if "resnets" in place else {}
    layer, dot, kind = name.rpartition(".")
    if to_diffusers:
        table = {new: old for old, new in table.items()}
    return f"{table.get(layer, layer)}{dot}{kind}"
