"""How a stochastic solver reaches the data: one step without noise, from where the noise stops (SiT, appendix).

Near the data the score grows without bound, so the stochastic equation is left ``size`` before it.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.interpolant import Interpolant


@dataclass(frozen=True, kw_only=True)
class _Sized:
    size: float = 0.04
    """Length in time of the last step."""

    def __post_init__(self) -> None:
        if not 0.0 < self.size < 1.0:
            raise ValueError(f"last_step is {self.size} long; it must lie between 0 and 1, or be NoLastStep")


@dataclass(frozen=True, kw_only=True)
class MeanStep(_Sized):
    """A step of the stochastic equation whose noise is left out; SiT's default, and the paper's choice."""

    def take(
        self,
        interpolant: Interpolant,
        x: Float[Tensor, " b *dims"],
        velocity: Float[Tensor, " b *dims"],
        drift: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return x + size · (v + D ∇ log p)."""
        return x + drift * self.size


@dataclass(frozen=True, kw_only=True)
class EulerStep(_Sized):
    """A step of the probability flow."""

    def take(
        self,
        interpolant: Interpolant,
        x: Float[Tensor, " b *dims"],
        velocity: Float[Tensor, " b *dims"],
        drift: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return x + size · v."""
        return x + velocity * self.size


@dataclass(frozen=True, kw_only=True)
class TweedieStep(_Sized):
    """A jump to the data that is expected given the state."""

    def take(
        self,
        interpolant: Interpolant,
        x: Float[Tensor, " b *dims"],
        velocity: Float[Tensor, " b *dims"],
        drift: Float[Tensor, " b *dims"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b *dims"]:
        """Return E[x₁ | x_t] = (x + σ² ∇ log p)/α, Tweedie's formula."""
        return interpolant.data_from_velocity(velocity, x, t)


@dataclass(frozen=True, kw_only=True)
class NoLastStep:
    """None: the stochastic equation is followed to the end of the flow."""


LastStep = MeanStep | EulerStep | TweedieStep | NoLastStep
"""Any last step."""
