"""The variance of a reverse step: learned by the network, or fixed to one of its two bounds.

Both bounds are exact for some data: β̃ if the data is a single point, β if it is standard normal (Ho et al., 2020,
section 3.2).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.gaussian.schedule import Schedule
from reals.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LearnedRange:
    """Interpolated by the network between log β̃ and log β (Nichol & Dhariwal, 2021, Eq. 15): DiT's choice.

    The network predicts twice the latent's channels: the noise, then v, which is -1 at β̃ and 1 at β and is not clamped.
    """

    bound_weight: float = 1.0
    """Weight of the variational bound, from which alone the variance is learned; 1 is DiT's."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.bound_weight < float("inf"):
            raise ValueError(f"bound_weight is {self.bound_weight}; it must be finite and not negative")

    def outputs(self, channels: int) -> int:
        """Return the channels that the network predicts for latents of ``channels``."""
        return 2 * channels

    def standard_deviation(
        self, schedule: Schedule, index: int, values: Float[Tensor, "b values *dims"]
    ) -> Float[Tensor, "b values *dims"]:
        """Return σ of the reverse step at ``index``, from the network's v."""
        low, high = schedule.posterior_log_variance[index].item(), schedule.betas[index].log().item()
        return (0.5 * interpolate_log_variance(values, low, high)).exp()


@dataclass(frozen=True, kw_only=True)
class FixedSmall:
    """The posterior's variance β̃."""

    def outputs(self, channels: int) -> int:
        """Return the channels that the network predicts for latents of ``channels``."""
        return channels

    def standard_deviation(self, schedule: Schedule, index: int, values: Float[Tensor, "b values *dims"]) -> float:
        """Return σ of the reverse step at ``index``; ``values`` is empty."""
        return (0.5 * schedule.posterior_log_variance[index]).exp().item()


@dataclass(frozen=True, kw_only=True)
class FixedLarge:
    """The forward step's variance β."""

    def outputs(self, channels: int) -> int:
        """Return the channels that the network predicts for latents of ``channels``."""
        return channels

    def standard_deviation(self, schedule: Schedule, index: int, values: Float[Tensor, "b values *dims"]) -> float:
        """Return σ of the reverse step at ``index``; ``values`` is empty."""
        return schedule.betas[index].sqrt().item()


Variance = LearnedRange | FixedSmall | FixedLarge
"""Any of them; each has ``outputs(channels)`` and ``standard_deviation(schedule, index, values)``."""


def interpolate_log_variance(
    values: Float[Tensor, " b *dims"], low: Float[Tensor, " b *ones"] | float, high: Float[Tensor, " b *ones"] | float
) -> Float[Tensor, " b *dims"]:
    """Return log σ² between ``low`` = log β̃, at v = -1, and ``high`` = log β, at v = 1; beyond them for other v."""
    share = (values + 1) / 2
    return share * high + (1 - share) * low


def split_output(
    output: Float[Tensor, "b outputs *dims"], channels: int, variance: Variance
) -> tuple[Float[Tensor, "b channels *dims"], Float[Tensor, "b values *dims"]]:
    """Return the predicted noise and the values of the learned variance (no channels if it is fixed), in float32.

    Raises:
        UserError: the network predicts another number of channels.
    """
    expected = variance.outputs(channels)
    if output.shape[1] != expected:
        raise UserError(
            f"the network predicts {output.shape[1]} channels for latents of {channels}, but Gaussian diffusion with "
            f"{type(variance).__name__} needs {expected}; choose the other kind of variance or of network"
        )
    noise, values = output.float().split([channels, expected - channels], dim=1)
    return noise, values
