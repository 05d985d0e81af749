"""The coefficients of a Gaussian diffusion process, in float64 (Ho et al., 2020, section 2).

``x_t = √ᾱ_t x + √(1 - ᾱ_t) ε`` at index t = 0 … n - 1, index 0 being the least noisy. Time runs the other way than in
the rest of ``reals.diffusion``, and in whole steps, because that is what the networks of DiT are fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LinearBetas:
    """Variances β that grow linearly along the process; the defaults are DDPM's and DiT's."""

    steps: int = 1000
    """Timesteps of the process."""
    first: float = 1e-4
    """β of the least noisy timestep."""
    last: float = 0.02
    """β of the noisiest timestep."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; a process has at least 2 timesteps")
        for name in ("first", "last"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; a variance lies between 0 and 1")

    def schedule(self) -> "Schedule":
        """Return the coefficients of all timesteps."""
        betas = torch.linspace(self.first, self.last, self.steps, dtype=torch.float64, device="cpu")
        return Schedule(betas=betas, timesteps=tuple(range(self.steps)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """What follows from the variances β: one float64 number per index, on the CPU."""

    betas: Float64[Tensor, " n"]
    """Variance of q(x_t | x_{t-1})."""
    timesteps: tuple[int, ...]
    """The trained process's timestep at each index: what the network is told."""

    def __post_init__(self) -> None:
        if len(self.betas) != len(self.timesteps):
            raise ValueError(f"{len(self.betas)} variances for {len(self.timesteps)} timesteps")

    def respaced(self, timesteps: Sequence[int]) -> "Schedule":
        """Return the process over some of the timesteps, with the same ᾱ there: β = 1 - ᾱ_t / ᾱ_previous.

        Raises:
            ValueError: they do not increase, or are not of this process.
        """
        places = {timestep: index for index, timestep in enumerate(self.timesteps)}
        kept = [places[timestep] for timestep in timesteps if timestep in places]
        if not kept or len(kept) != len(timesteps) or kept != sorted(set(kept)):
            raise ValueError("timesteps must increase and be of the process")
        alpha_bar = self.alpha_bar[kept]
        return Schedule(betas=1 - alpha_bar / _shifted(alpha_bar), timesteps=tuple(timesteps))

    @cached_property
    def alpha_bar(self) -> Float64[Tensor, " n"]:
        """ᾱ, the share of the data in the variance of x_t."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def alpha_bar_previous(self) -> Float64[Tensor, " n"]:
        """ᾱ of the next less noisy index; 1 at index 0."""
        return _shifted(self.alpha_bar)

    @cached_property
    def posterior_variance(self) -> Float64[Tensor, " n"]:
        """β̃, the variance of q(x_{t-1} | x_t, x): 0 at index 0 (Eq. 7)."""
        return self.betas * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)

    @cached_property
    def posterior_log_variance(self) -> Float64[Tensor, " n"]:
        """log β̃, with index 1's value at index 0, where it would be -∞."""
        variance = self.posterior_variance
        # One index has no neighbour; there is only its last step, which adds no noise.
        return torch.cat([variance[1:2] if len(variance) > 1 else self.betas, variance[1:]]).log()

    @cached_property
    def posterior_data_weight(self) -> Float64[Tensor, " n"]:
        """Coefficient of x in the mean of q(x_{t-1} | x_t, x) (Eq. 7)."""
        return self.betas * self.alpha_bar_previous.sqrt() / (1 - self.alpha_bar)

    @cached_property
    def posterior_state_weight(self) -> Float64[Tensor, " n"]:
        """Coefficient of x_t in the mean of q(x_{t-1} | x_t, x) (Eq. 7)."""
        return (1 - self.alpha_bar_previous) * (1 - self.betas).sqrt() / (1 - self.alpha_bar)

    @cached_property
    def data_from_state(self) -> Float64[Tensor, " n"]:
        """1/√ᾱ, coefficient of x_t in the data that x_t and the noise determine."""
        return (1 / self.alpha_bar).sqrt()

    @cached_property
    def data_from_noise(self) -> Float64[Tensor, " n"]:
        """√(1/ᾱ - 1), minus the coefficient of the noise in the data that x_t and the noise determine."""
        return (1 / self.alpha_bar - 1).sqrt()


def _shifted(alpha_bar: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    return torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
