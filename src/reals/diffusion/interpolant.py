"""Paths between noise and data: x_t = α(t) x₁ + σ(t) x₀, with x₀ noise (t = 0) and x₁ data (t = 1).

SiT (Ma et al., 2024), section 2. Everything follows from α, σ and their derivatives. The conversions are written with
the Wronskian W = α'σ - ασ', so that none of them divides by α: they are finite at t = 0, where α vanishes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def expand(values: Float[Tensor, " b"], x: Float[Tensor, " b *dims"]) -> Float[Tensor, " b *ones"]:
    """Return one value per sample, shaped to multiply ``x``."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


class Interpolant(ABC):
    """A path: two coefficients, their derivatives in time, and all that follows from them."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the coefficient of the data."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the coefficient of the noise."""

    @abstractmethod
    def alpha_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return dα/dt."""

    @abstractmethod
    def sigma_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return dσ/dt."""

    def wronskian(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return α'σ - ασ', positive on the whole path."""
        return self.alpha_derivative(t) * self.sigma(t) - self.alpha(t) * self.sigma_derivative(t)

    def interpolate(
        self, noise: Float[Tensor, " b *dims"], data: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return the point of the path, x_t = α x₁ + σ x₀."""
        return expand(self.alpha(t), data) * data + expand(self.sigma(t), data) * noise

    def velocity(
        self, noise: Float[Tensor, " b *dims"], data: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return the path's derivative, u_t = α' x₁ + σ' x₀: what a network learns."""
        return expand(self.alpha_derivative(t), data) * data + expand(self.sigma_derivative(t), data) * noise

    def score_from_velocity(
        self, velocity: Float[Tensor, " b *dims"], x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return ∇ log p_t(x) = (α v - α' x) / (σ W); infinite where σ = 0."""
        denominator = expand(self.sigma(t) * self.wronskian(t), x)
        return (expand(self.alpha(t), x) * velocity - expand(self.alpha_derivative(t), x) * x) / denominator

    def noise_from_velocity(
        self, velocity: Float[Tensor, " b *dims"], x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return the expected noise E[x₀ | x_t] = (α' x - α v) / W; finite on the whole path."""
        difference = expand(self.alpha_derivative(t), x) * x - expand(self.alpha(t), x) * velocity
        return difference / expand(self.wronskian(t), x)

    def data_from_velocity(
        self, velocity: Float[Tensor, " b *dims"], x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return the expected data E[x₁ | x_t] = (σ v - σ' x) / W; finite on the whole path."""
        difference = expand(self.sigma(t), x) * velocity - expand(self.sigma_derivative(t), x) * x
        return difference / expand(self.wronskian(t), x)

    def velocity_from_score(
        self, score: Float[Tensor, " b *dims"], x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return v = (α'/α) x + w ∇ log p_t(x); infinite where α = 0."""
        return expand(self.drift_rate(t), x) * x + expand(self.score_weight(t), x) * score

    def drift_rate(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return α'/α, the linear part of the drift; infinite where α = 0."""
        return self.alpha_derivative(t) / self.alpha(t)

    def score_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return w = σ W / α = (α'/α) σ² - σσ', the weight of the score in the drift; infinite where α = 0."""
        return self.sigma(t) * self.wronskian(t) / self.alpha(t)


@dataclass(frozen=True)
class Linear(Interpolant):
    """The straight path, α = t and σ = 1 - t: rectified flow, and what SiT and the paper train."""

    def alpha(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return t."""
        return t

    def sigma(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1 - t."""
        return 1 - t

    def alpha_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1."""
        return torch.ones_like(t)

    def sigma_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return -1."""
        return -torch.ones_like(t)
