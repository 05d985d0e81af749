"""Does the latent move as the image does? Equivariance under scaling, rotation and mirroring (EQ-VAE, 2502.09509)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


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


@dataclass(frozen=True, eq=False)
class EquivarianceResult:
    """Errors, one per image: 0 is equivariant, about √2 unrelated."""

    raw: Float[Tensor, " n"]
    """‖E(τx) - τE(x)‖ / ‖E(τx) - m‖, with m the mean of each channel: an offset must not shrink the error."""
    centred: Float[Tensor, " n"]
    """The same after subtracting from E(τx) and from τE(x) their means at each position. A smooth template common to
    all latents survives shrinking and mirroring, so that it shrinks the raw error whatever the content does."""


def equivariance_error(
    changed: Float[Tensor, "n c rows columns"], moved: Float[Tensor, "n c rows columns"]
) -> EquivarianceResult:
    """Compare E(τx), the latents of changed images, with τE(x), the changed latents of the images.

    Raises:
        ValueError: fewer than two images, whose mean would be the image itself.
    """
    if len(changed) < 2:
        raise ValueError(f"a template needs at least two images, found {len(changed)}")
    changed, moved = changed.double(), moved.double()
    template = changed.mean(0)
    return EquivarianceResult(
        raw=_relative(changed - moved, changed - template.mean((1, 2))[:, None, None]),
        centred=_relative((changed - template) - (moved - moved.mean(0)), changed - template),
    )


def _relative(difference: Tensor, whole: Tensor) -> Tensor:
    return (difference.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp_min(1e-12)).float()
