"""What a network's output means: the velocity of the path, the score of its density, or the noise in a point.

SiT (Ma et al., 2024), section 2. All three are one field written differently, so each becomes a velocity; what differs
is what is regressed, and where the conversion is infinite.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.interpolant import Interpolant, expand


@dataclass(frozen=True, kw_only=True)
class VelocityPrediction:
    """The output is the velocity v(x, t), finite wherever the path's derivatives are."""

    def error(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        noise: Float[Tensor, " b *dims"],
        data: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return what training squares: output - u_t, for u_t = α' x₁ + σ' x₀."""
        return output - interpolant.velocity(noise, data, t)

    def velocity(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        x: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return the output itself."""
        return output


@dataclass(frozen=True, kw_only=True)
class ScorePrediction:
    """The output is the score ∇ log p_t(x)."""

    def error(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        noise: Float[Tensor, " b *dims"],
        data: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return what training squares: σ · output + x₀, σ times the distance to the score of x_t given x₁."""
        return expand(interpolant.sigma(t), output) * output + noise

    def velocity(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        x: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return (α'/α) x + (σW/α) · output; infinite where α = 0."""
        return interpolant.velocity_from_score(output, x, t)


@dataclass(frozen=True, kw_only=True)
class NoisePrediction:
    """The output is the expected noise E[x₀ | x_t]."""

    def error(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        noise: Float[Tensor, " b *dims"],
        data: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return what training squares: output - x₀."""
        return output - noise

    def velocity(
        self,
        interpolant: Interpolant,
        output: Float[Tensor, " b *dims"],
        x: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return (α'/α) x - (W/α) · output; infinite where α = 0."""
        return interpolant.velocity_from_noise(output, x, t)


Prediction = VelocityPrediction | ScorePrediction | NoisePrediction
"""Any meaning of a network's output."""
