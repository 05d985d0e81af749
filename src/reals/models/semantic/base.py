"""What a semantic encoder is, whichever network it may be."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Features(NamedTuple):
    """What a semantic encoder says about a batch of images, float32."""

    patch: Float[Tensor, "b rows columns d"]
    """One vector per cell of the grid."""
    pooled: Float[Tensor, "b e"]
    """One vector per image."""


@runtime_checkable
class SemanticEncoder(Protocol):
    """A frozen network from pixels to features; its output carries no gradient."""

    name: str
    """What it is called in records and reports."""
    patch_dim: int
    """Length of a patch feature."""
    pooled_dim: int
    """Length of a pooled feature."""
    fingerprint: str
    """SHA-256 of its weights."""

    def __call__(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Features:
        """Return features of pixels in [-1, 1], on the encoder's device, with one patch feature per cell of ``grid``.

        The image is resized so that the encoder's own patch grid equals ``grid`` (ReaLS, section 3.2).
        """
        ...


def ordinary(patch: Float[Tensor, "b rows columns d"], pooled: Float[Tensor, "b e"]) -> Features:
    """Return what was computed under ``inference_mode`` as float32 tensors that a loss may keep for its gradient."""
    return Features(
        *(torch.empty(side.shape, dtype=torch.float32, device=side.device).copy_(side) for side in (patch, pooled))
    )


def resize_unit(pixels: Float[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 rows columns"]:
    """Map pixels from [-1, 1] to [0, 1] and resize them (bicubic, antialiased), clamped as an image file would be."""
    unit = pixels.float().add(1.0).mul(0.5)
    if tuple(unit.shape[-2:]) != size:
        unit = F.interpolate(unit, size=size, mode="bicubic", antialias=True, align_corners=False)
    return unit.clamp(0.0, 1.0)
