"""EQ-VAE's regulariser (Kouzelis et al., 2502.09509): scaling and turning a latent scales and turns its image.

In a share of the steps the decoder sees a transformed latent and is asked for the image transformed alike, instead of
the plain reconstruction. In expectation that is a weighted sum of both losses at the cost of one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reals.runtime.seed import derive_seed


@dataclass(frozen=True, kw_only=True)
class EquivarianceConfig:
    """How often and how far; the strengths are EQ-VAE's, switched off."""

    weight: float = 0.0
    """Share of the steps, in [0, 1], that reconstruct a transformed latent; 0 leaves it out, EQ-VAE uses 0.5."""
    smallest_scale: float = 0.25
    """Latents are shrunk to between this and all of their side."""
    rotate: bool = True
    """Whether they are also turned by 90, 180 or 270 degrees."""
    seed: int = 0
    """Seeds which step is transformed how."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"weight is {self.weight}; it is a share of steps, in [0, 1]")
        if not 0.0 < self.smallest_scale <= 1.0:
            raise ValueError(f"smallest_scale is {self.smallest_scale}; it must lie in (0, 1]")

    def at(self, step: int, grid: int) -> "Transform":
        """Return the transform of ``step``: a function of seed and step, so that all pieces of a batch share it."""
        if self.weight == 0.0:
            return Transform(side=grid, quarter_turns=0)
        chance, scale, turn = (derive_seed(self.seed, "equivariance", step, name) for name in ("on", "scale", "turn"))
        if chance / 2**63 >= self.weight:
            return Transform(side=grid, quarter_turns=0)
        smallest = max(1, round(self.smallest_scale * grid))
        side = smallest + scale % (grid - smallest + 1)
        return Transform(side=side, quarter_turns=1 + turn % 3 if self.rotate else 0)


@dataclass(frozen=True)
class Transform:
    """A latent shrunk to ``side`` cells and turned by quarters; also for the image that belongs to it."""

    side: int
    quarter_turns: int

    def latent(self, latent: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b c h w"]:
        """Return the transformed latent (bilinear)."""
        return self._apply(latent, self.side)

    def image(self, pixels: Float[Tensor, "b 3 h w"], grid: int) -> Float[Tensor, "b 3 height width"]:
        """Return the image of ``grid`` cells a side, transformed as its latent is."""
        return self._apply(pixels, self.side * pixels.shape[-1] // grid)

    def _apply(self, tensor: Tensor, side: int) -> Tensor:
        if side != tensor.shape[-1]:
            tensor = F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False)
        return torch.rot90(tensor, self.quarter_turns, dims=(2, 3)) if self.quarter_turns else tensor
