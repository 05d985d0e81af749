"""How much each time counts in the loss of a score or a noise prediction (SiT, section 2; ``loss_weight`` there)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.interpolant import Interpolant


@dataclass(frozen=True, kw_only=True)
class NoWeighting:
    """Every time counts the same."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1."""
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class VelocityWeighting:
    """(w/σ)² = (W/α)², which makes the loss of a noise or a score that of the velocity it stands for."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return (W/α)²; infinite where α = 0."""
        return interpolant.noise_weight(t).square()


@dataclass(frozen=True, kw_only=True)
class LikelihoodWeighting:
    """w/σ² = W/(ασ), whose loss bounds the likelihood of the reverse diffusion (Song et al., 2021)."""

    def __call__(self, interpolant: Interpolant, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return W/(ασ); infinite where α = 0 or σ = 0."""
        return interpolant.noise_weight(t) / interpolant.sigma(t)


Weighting = NoWeighting | VelocityWeighting | LikelihoodWeighting
"""Any weight of a time in the loss."""
