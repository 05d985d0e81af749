"""Does the latent move as the image does? Equivariance under scaling, rotation and mirroring (EQ-VAE, 2502.09509)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """Bilinear, antialiased shrinking."""

    numerator: int
    """Of the factor."""
    denominator: int
    """Of the factor."""

    def __call__(self, planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c rows columns"]:
        """Return the shrunk planes."""
        size = [side * self.numerator // self.denominator for side in planes.shape[2:]]
        return functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)

    def fits(self, side: int) -> bool:
        """Return whether the shrunk side is whole and at least two cells."""
        return side * self.numerator % self.denominator == 0 and side * self.numerator // self.denominator >= 2


@dataclass(frozen=True)
class Turn:
    """Anticlockwise rotation by quarter turns."""

    quarters: int
    """1, 2 or 3."""

    def __call__(self, planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c rows columns"]:
        """Return the turned planes."""
        return planes.rot90(self.quarters, (2, 3))

    def fits(self, side: int) -> bool:
        """Any side will do."""
        return True


@dataclass(frozen=True)
class Mirror:
    """Mirroring left to right."""

    def __call__(self, planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c rows columns"]:
        """Return the mirrored planes."""
        return planes.flip(3)

    def fits(self, side: int) -> bool:
        """Any side will do."""
        return True


Transform = Scale | Turn | Mirror
"""The same change of images and of latents."""

TRANSFORMS: dict[str, Transform] = {
    "half": Scale(1, 2),
    "three_quarters": Scale(3, 4),
    "turned_90": Turn(1),
    "turned_180": Turn(2),
    "turned_270": Turn(3),
    "mirrored": Mirror(),
}
"""What latents are tested on; those that do not fit the latent grid are left out."""


@torch.no_grad()
def equivariance_error(
    encode: Map,
    transform: Transform,
    pixels: Float[Tensor, "b 3 h w"],
    latents: Float[Tensor, "b c rows columns"],
    centre: Float[Tensor, " c"],
) -> Float[Tensor, " b"]:
    """Return ‖E(τx) - τE(x)‖ / ‖E(τx) - m‖ of each image: 0 is equivariant, √2 about unrelated.

    Args:
        encode: E, from pixels to latents (posterior means).
        transform: τ.
        pixels: x.
        latents: E(x).
        centre: m, the mean of each channel over the data: an offset common to all latents must not shrink the error.
    """
    changed = encode(transform(pixels)).float()
    difference = (changed - transform(latents).float()).flatten(1).norm(dim=1)
    size = (changed - centre[:, None, None]).flatten(1).norm(dim=1)
    return difference / size.clamp_min(1e-12)
