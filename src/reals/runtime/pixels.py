"""Between stored images (uint8, NHWC) and pixels (float32 in [-1, 1], NCHW)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Rounding = Literal["nearest", "repa"]
"""How a pixel becomes a byte: ``nearest`` as SiT and DiT do, ``repa`` as REPA does, half a byte darker on average."""


def to_pixels(images: UInt8[np.ndarray, "b h w 3"] | UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Map bytes 0..255 linearly onto [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    return tensor.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0).contiguous()


def to_uint8(pixels: Float[Tensor, "b 3 h w"], rule: Rounding = "nearest") -> UInt8[np.ndarray, "b h w 3"]:
    """Map [-1, 1] onto bytes, ``nearest`` by ``clamp(127.5 x + 128, 0, 255)``, truncated, as SiT and DiT do.

    ``repa`` truncates ``clamp(255 (x + 1) / 2, 0, 255)`` as REPA's sampling does: in between two bytes the lower one.
    """
    whole = pixels.float()
    scaled = whole.add(1.0).div(2.0).mul(255.0) if rule == "repa" else whole.mul(127.5).add(128.0)
    return scaled.clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
