"""Samplers of a Gaussian diffusion process: frozen settings whose ``integrate`` sees only a :class:`Chain`.

The state is float32, the coefficients are float64. ``steps`` counts evaluations of the network.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.gaussian.chain import Chain
from reals.diffusion.gaussian.spacing import EvenSpacing, Spacing
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers.grid import StepCallback, ignore_step


@dataclass(frozen=True, kw_only=True)
class _Visits:
    steps: int
    """Timesteps visited, each with one evaluation of the network."""
    spacing: Spacing = field(default_factory=EvenSpacing)
    """Which timesteps these are."""
    clip: float | None = None
    """Clamp the predicted data to this distance from 0, or None; 1 suits pixels, nothing suits latents."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be positive, or None")

    def timesteps(self, total: int) -> tuple[int, ...]:
        """Return the timesteps of a process of ``total`` at which the network is evaluated, noisiest first.

        Raises:
            UserError: the process has no such timesteps.
        """
        return self.spacing.timesteps(total, self.steps)[::-1]

    def _visited(self, chain: Chain) -> Chain:
        return chain.respaced(self.timesteps(len(chain.schedule.timesteps))[::-1])


@dataclass(frozen=True, kw_only=True)
class DDPM(_Visits):
    """Ancestral sampling (Ho et al., 2020, Algorithm 2) on respaced timesteps (Nichol & Dhariwal, 2021, section 4).

    DiT's published samples are of this kind, 250 steps with even spacing: its ``"250"``.
    """

    steps: int = 250
    """Timesteps visited, each with one evaluation of the network."""

    def integrate(
        self, chain: Chain, x: Float[Tensor, "b c *dims"], noise: NoiseSource, on_step: StepCallback = ignore_step
    ) -> Float[Tensor, "b c *dims"]:
        """Carry noise ``x`` to data, asking ``noise`` for fresh noise at every step but the last.

        Raises:
            UserError: the process has no such timesteps, or the network predicts a wrong number of channels.
        """
        x = x.float()
        chain = self._visited(chain)
        schedule = chain.schedule
        for step in range(self.steps):
            index = self.steps - 1 - step
            predicted, values = chain.predict(x, index)
            data = chain.data(x, predicted, index, self.clip)
            mean = schedule.posterior_data_weight[index].item() * data
            x = mean + schedule.posterior_state_weight[index].item() * x
            if index > 0:
                deviation = chain.variance.standard_deviation(schedule, index, values)
                x = x + deviation * noise(tuple(x.shape[1:]), x.device)
            on_step(step + 1, x)
        return x


@dataclass(frozen=True, kw_only=True)
class DDIM(_Visits):
    """Implicit sampling (Song et al., 2021, Eq. 12): deterministic for η = 0, first order in the number of steps."""

    steps: int = 50
    """Timesteps visited, each with one evaluation of the network."""
    eta: float = 0.0
    """η: 0 adds no noise; 1 adds as much as the posterior's variance β̃. A learned variance is not used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta is {self.eta}; it must lie between 0 and 1")

    def integrate(
        self, chain: Chain, x: Float[Tensor, "b c *dims"], noise: NoiseSource, on_step: StepCallback = ignore_step
    ) -> Float[Tensor, "b c *dims"]:
        """Carry noise ``x`` to data; only for η > 0 ask ``noise`` for fresh noise, at every step but the last.

        Raises:
            UserError: the process has no such timesteps, or the network predicts a wrong number of channels.
        """
        x = x.float()
        chain = self._visited(chain)
        schedule = chain.schedule
        variances = self.eta**2 * schedule.posterior_variance
        direction = (1 - schedule.alpha_bar_previous - variances).clamp(min=0).sqrt()
        for step in range(self.steps):
            index = self.steps - 1 - step
            data, predicted = self._predict(chain, x, index)
            x = schedule.alpha_bar_previous[index].sqrt().item() * data + direction[index].item() * predicted
            if index > 0 and self.eta > 0:
                x = x + variances[index].sqrt().item() * noise(tuple(x.shape[1:]), x.device)
            on_step(step + 1, x)
        return x

    def encode(
        self, chain: Chain, x: Float[Tensor, "b c *dims"], on_step: StepCallback = ignore_step
    ) -> Float[Tensor, "b c *dims"]:
        """Carry data ``x`` to the noise from which ``integrate`` with η = 0 makes it, up to the error of the steps.

        The same path backwards, each step with the noise predicted at its less noisy end. Data without noise has no
        timestep; the network is told the least noisy one. One evaluation per step.

        Raises:
            UserError: the process has no such timesteps, or the network predicts a wrong number of channels.
        """
        x = x.float()
        chain = self._visited(chain)
        schedule = chain.schedule
        for index in range(self.steps):
            predicted, _ = chain.predict(x, max(index - 1, 0))
            before, after = schedule.alpha_bar_previous[index], schedule.alpha_bar[index]
            data = (x - (1 - before).sqrt().item() * predicted) / before.sqrt().item()
            x = after.sqrt().item() * data + (1 - after).sqrt().item() * predicted
            on_step(index + 1, x)
        return x

    def _predict(self, chain: Chain, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return the data, and the noise that belongs to it even where the data is clamped."""
        predicted, _ = chain.predict(x, index)
        data = chain.data(x, predicted, index, self.clip)
        if self.clip is None:
            return data, predicted
        schedule = chain.schedule
        return data, (schedule.data_from_state[index].item() * x - data) / schedule.data_from_noise[index].item()


GaussianSolver = DDPM | DDIM
"""Any sampler; each has ``timesteps(total)`` and ``integrate(chain, x, noise, on_step)``."""
