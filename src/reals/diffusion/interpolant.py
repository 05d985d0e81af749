"""Paths between noise and data: x_t = α(t) x₁ + σ(t) x₀, with x₀ noise (t = 0) and x₁ data (t = 1).

SiT (Ma et al., 2024), section 2. Everything follows from α, σ and their derivatives. The conversions are written with
the Wronskian W = α'σ - ασ', so that none of them divides by α: they are finite at t = 0, where α vanishes.
"""

import math
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
        """Return v = (α'/α) x + (σW/α) ∇ log p_t(x); infinite where α = 0."""
        return expand(self.drift_rate(t), x) * x + expand(self.score_weight(t), x) * score

    def velocity_from_noise(
        self, noise: Float[Tensor, " b *dims"], x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b *dims"]:
        """Return v = (α'/α) x - (W/α) E[x₀ | x_t]; infinite where α = 0."""
        return expand(self.drift_rate(t), x) * x - expand(self.noise_weight(t), x) * noise

    def drift_rate(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return α'/α, the linear part of the drift; infinite where α = 0."""
        return self.alpha_derivative(t) / self.alpha(t)

    def noise_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return W/α, the weight of the noise in the velocity (with its sign changed); infinite where α = 0."""
        return self.wronskian(t) / self.alpha(t)

    def score_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return w = σ W / α = (α'/α) σ² - σσ', the weight of the score in the velocity; infinite where α = 0."""
        return self.sigma(t) * self.noise_weight(t)


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


@dataclass(frozen=True)
class GVP(Interpolant):
    """The circular path, α = sin(πt/2) and σ = cos(πt/2): its variance is constant (SiT's generalised VP)."""

    def alpha(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return sin(πt/2)."""
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return cos(πt/2), written as a sine so that it is 0 at t = 1 and never negative."""
        return torch.sin(math.pi / 2 * (1 - t))

    def alpha_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return (π/2) σ."""
        return math.pi / 2 * self.sigma(t)

    def sigma_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return -(π/2) α."""
        return -math.pi / 2 * self.alpha(t)


@dataclass(frozen=True)
class VP(Interpolant):
    """The path of a variance-preserving diffusion (Song et al., 2021), α² + σ² = 1.

    log α = -(1-t)² (b - a)/4 - (1-t) a/2, where ``a`` and ``b`` are the rates of noise at the data and at the other
    end. A little data is left at t = 0 (α = 0.0066), so nothing is infinite there; at t = 1 the derivative of σ is.
    """

    rate_at_data: float = 0.1
    """Rate of the noise at t = 1, β_min."""
    rate_at_noise: float = 20.0
    """Rate of the noise at t = 0, β_max."""

    def __post_init__(self) -> None:
        if not 0.0 < self.rate_at_data <= self.rate_at_noise < math.inf:
            raise ValueError(
                f"rates are {self.rate_at_data} at data and {self.rate_at_noise} at noise; they must be positive and "
                "finite, the first not above the second"
            )

    def alpha(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return exp(log α)."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return √(1 - α²), without the cancellation near t = 1."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def alpha_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return α (log α)'."""
        return self.alpha(t) * self.drift_rate(t)

    def sigma_derivative(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return -α² (log α)' / σ; infinite at t = 1."""
        return -self.alpha(t).square() * self.drift_rate(t) / self.sigma(t)

    def wronskian(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return α (log α)' / σ, since α² + σ² = 1; infinite at t = 1."""
        return self.alpha(t) * self.drift_rate(t) / self.sigma(t)

    def drift_rate(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return (log α)' = (1-t) (b - a)/2 + a/2, half the diffusion's rate."""
        return 0.5 * ((1 - t) * (self.rate_at_noise - self.rate_at_data) + self.rate_at_data)

    def score_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return (log α)': the weight is the rate itself, finite on the whole path."""
        return self.drift_rate(t)

    def _log_alpha(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        remaining = 1 - t
        quadratic = (self.rate_at_noise - self.rate_at_data) / 4
        return -remaining.square() * quadratic - remaining * (self.rate_at_data / 2)
