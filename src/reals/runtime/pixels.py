"""Between stored images (uint8, NHWC) and pixels (float32 in [-1, 1], NCHW)."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_pixels(images: UInt8[np.ndarray, "b h w 3"] | UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Map bytes 0..255 linearly onto [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    return tensor.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0).contiguous()


def to_uint8(pixels: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Map [-1, 1] onto bytes as SiT and DiT do: ``clamp(127.5 x + 128, 0, 255)``, truncated, so rounded to nearest."""
    scaled = pixels.float().mul(127.5).add(128.0).clamp(0.0, 255.0)
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
