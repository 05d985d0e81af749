"""How much noise a reverse-time stochastic equation adds: D(t) in dx = (v + D ∇log p) dt + √(2D) dW.

Every D gives the same distribution at every time if the velocity is exact; with a learned one the choice matters
(SiT, section 2). Each form has a factor ``scale``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.interpolant import Interpolant


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    scale: float = 1.0
    """Multiplies the coefficient."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale is {self.scale}; it must be finite and not negative")


@dataclass(frozen=True, kw_only=True)
class SigmaDiffusion(_Scaled):
    """D = σ(t), SiT's choice in its published results."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        return self.scale * interpolant.sigma(t)


@dataclass(frozen=True, kw_only=True)
class SBDMDiffusion(_Scaled):
    """D = w(t) = σW/α = (α'/α) σ² - σσ', as in score-based diffusion models.

    On paths whose α vanishes at t = 0 this is infinite there, and SiT's own sampler answers NaN for a velocity. Since
    any D ≥ 0 has the same distribution at every time, D is bounded at the noisy end without changing what is sampled.
    It stays large: the first steps are accurate only if they are shorter than 1/D.
    """

    smallest_alpha: float = 1e-3
    """Where α is smaller, D is computed with this in its place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.smallest_alpha < 1.0:
            raise ValueError(f"smallest_alpha is {self.smallest_alpha}; it must lie between 0 and 1")

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        alpha = interpolant.alpha(t).clamp(min=self.smallest_alpha)
        return self.scale * interpolant.sigma(t) * interpolant.wronskian(t) / alpha


@dataclass(frozen=True, kw_only=True)
class LinearDiffusion(_Scaled):
    """D = 1 - t."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        return self.scale * (1 - t)


@dataclass(frozen=True, kw_only=True)
class DecreasingDiffusion(_Scaled):
    """D = (cos πt + 1)² / 4; the scale multiplies the cosine, as in SiT."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        return 0.25 * (self.scale * torch.cos(math.pi * t) + 1).square()


@dataclass(frozen=True, kw_only=True)
class IncreasingDecreasingDiffusion(_Scaled):
    """D = sin² πt."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        return self.scale * torch.sin(math.pi * t).square()


@dataclass(frozen=True, kw_only=True)
class ConstantDiffusion(_Scaled):
    """D = 1."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return D(t)."""
        return self.scale * torch.ones_like(t)


DiffusionCoefficient = (
    SigmaDiffusion
    | SBDMDiffusion
    | LinearDiffusion
    | DecreasingDiffusion
    | IncreasingDecreasingDiffusion
    | ConstantDiffusion
)
"""Any form of D(t)."""
