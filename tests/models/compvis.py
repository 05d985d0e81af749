"""latent-diffusion's autoencoder as functions of its state dictionary, written from its layout for comparison."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = Mapping[str, Tensor]


def encode(tensors: Tensors, x: Tensor, groups: int) -> Tensor:
    """Return mean and log-variance, one after the other."""
    x = _convolve(tensors, "encoder.conv_in", x, padding=1)
    level = 0
    while f"encoder.down.{level}.block.0.norm1.weight" in tensors:
        x = _blocks(tensors, f"encoder.down.{level}", x, groups)
        if f"encoder.down.{level}.downsample.conv.weight" in tensors:
            x = _convolve(tensors, f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        level += 1
    x = _end(tensors, "encoder", _middle(tensors, "encoder", x, groups), groups)
    return _convolve(tensors, "quant_conv", x) if "quant_conv.weight" in tensors else x


def decode(tensors: Tensors, z: Tensor, groups: int) -> Tensor:
    """Return images."""
    if "post_quant_conv.weight" in tensors:
        z = _convolve(tensors, "post_quant_conv", z)
    x = _middle(tensors, "decoder", _convolve(tensors, "decoder.conv_in", z, padding=1), groups)
    levels = sorted({int(name.split(".")[2]) for name in tensors if name.startswith("decoder.up.")}, reverse=True)
    for level in levels:
        x = _blocks(tensors, f"decoder.up.{level}", x, groups)
        if level > 0:
            x = _convolve(tensors, f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0), padding=1)
    return _end(tensors, "decoder", x, groups)


def _blocks(tensors: Tensors, place: str, x: Tensor, groups: int) -> Tensor:
    index = 0
    while f"{place}.block.{index}.norm1.weight" in tensors:
        x = _residual(tensors, f"{place}.block.{index}", x, groups)
        if f"{place}.attn.{index}.q.weight" in tensors:
            x = _attend(tensors, f"{place}.attn.{index}", x, groups)
        index += 1
    return x


def _middle(tensors: Tensors, side: str, x: Tensor, groups: int) -> Tensor:
    x = _residual(tensors, f"{side}.mid.block_1", x, groups)
    if f"{side}.mid.attn_1.q.weight" in tensors:
        x = _attend(tensors, f"{side}.mid.attn_1", x, groups)
    return _residual(tensors, f"{side}.mid.block_2", x, groups)


def _end(tensors: Tensors, side: str, x: Tensor, groups: int) -> Tensor:
    return _convolve(tensors, f"{side}.conv_out", F.silu(_norm(tensors, f"{side}.norm_out", x, groups)), padding=1)


def _residual(tensors: Tensors, place: str, x: Tensor, groups: int) -> Tensor:
    h = _convolve(tensors, f"{place}.conv1", F.silu(_norm(tensors, f"{place}.norm1", x, groups)), padding=1)
    h = _convolve(tensors, f"{place}.conv2", F.silu(_norm(tensors, f"{place}.norm2", h, groups)), padding=1)
    if f"{place}.nin_shortcut.weight" in tensors:
        x = _convolve(tensors, f"{place}.nin_shortcut", x)
    return x + h


def _attend(tensors: Tensors, place: str, x: Tensor, groups: int) -> Tensor:
    h = _norm(tensors, f"{place}.norm", x, groups)
    q, k, v = (_convolve(tensors, f"{place}.{name}", h).flatten(2) for name in "qkv")
    weights = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, dim=-1)
    return x + _convolve(tensors, f"{place}.proj_out", (v @ weights.transpose(1, 2)).reshape(x.shape))


def _norm(tensors: Tensors, place: str, x: Tensor, groups: int) -> Tensor:
    return F.group_norm(x, groups, tensors[f"{place}.weight"], tensors[f"{place}.bias"], eps=1e-6)


def _convolve(tensors: Tensors, place: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
    return F.conv2d(x, tensors[f"{place}.weight"], tensors[f"{place}.bias"], padding=padding, stride=stride)
