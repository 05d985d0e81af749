"""Solvers from noise (t = 0) to data (t = 1): frozen settings whose ``integrate`` sees only a velocity.

A step is an interval: ``steps`` intervals make the path, where SiT's ``num_steps`` counts the points between them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.diffusion_coefficient import DiffusionCoefficient, SigmaDiffusion
from reals.diffusion.guidance import Velocity
from reals.diffusion.interpolant import Linear, expand
from reals.diffusion.noise import NoiseSource

StepCallback = Callable[[int, Tensor], None]
"""Told the number of finished steps and the state after each of them."""


def _ignore(step: int, x: Tensor) -> None:
    pass


def _grid(end: float, intervals: int) -> list[float]:
    return [end * index / intervals for index in range(intervals + 1)]


def _evaluate(velocity: Velocity, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return the velocity in float32, whatever the network computes in, and the times it was evaluated at."""
    times = torch.full((len(x),), t, device=x.device)
    return velocity(x, times).float(), times


@dataclass(frozen=True, kw_only=True)
class Euler:
    """First-order solver of dx/dt = v(x, t); one velocity evaluation a step."""

    steps: int = 50
    """Intervals between noise and data."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    def times(self) -> list[float]:
        """Return the times at which the velocity is evaluated."""
        return _grid(1.0, self.steps)[:-1]

    def integrate(
        self,
        velocity: Velocity,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource | None = None,
        on_step: StepCallback = _ignore,
    ) -> Float[Tensor, " b *dims"]:
        """Carry noise ``x`` at t = 0 to data at t = 1; ``noise`` is not used."""
        x = x.float()
        for step, t in enumerate(self.times()):
            x = x + _evaluate(velocity, x, t)[0] / self.steps
            on_step(step + 1, x)
        return x


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Second-order solver of dx/dt = v(x, t), the explicit trapezoid; two velocity evaluations a step."""

    steps: int = 50
    """Intervals between noise and data."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    def times(self) -> list[float]:
        """Return the times at which the velocity is evaluated."""
        return [t for interval in pairwise(_grid(1.0, self.steps)) for t in interval]

    def integrate(
        self,
        velocity: Velocity,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource | None = None,
        on_step: StepCallback = _ignore,
    ) -> Float[Tensor, " b *dims"]:
        """Carry noise ``x`` at t = 0 to data at t = 1; ``noise`` is not used."""
        x = x.float()
        times = self.times()
        for step, (start, end) in enumerate(zip(times[::2], times[1::2], strict=True)):
            first = _evaluate(velocity, x, start)[0]
            second = _evaluate(velocity, x + first / self.steps, end)[0]
            x = x + (first + second) / (2 * self.steps)
            on_step(step + 1, x)
        return x


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama:
    """First-order solver of the Itô equation dx = (v + D ∇log p) dt + √(2D) dW (SiT, section 2).

    ``steps - 1`` equal steps reach t = 1 - ``last_step``, and one without noise reaches t = 1: SiT's last step
    "Mean". The score follows from the velocity, so a step costs one evaluation. The defaults are the paper's.
    """

    steps: int = 250
    """Intervals between noise and data, the last one included."""
    last_step: float = 0.04
    """Length in time of the last step, which adds no noise."""
    diffusion: DiffusionCoefficient = field(default_factory=SigmaDiffusion)
    """How much noise is added along the way."""
    interpolant: Linear = field(default_factory=Linear)
    """The path that the velocity was trained on."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; it must be at least 2")
        if not 0.0 < self.last_step < 1.0:
            raise ValueError(f"last_step is {self.last_step}; it must lie between 0 and 1")
        if not self.diffusion(self.interpolant, torch.zeros(1, device="cpu")).isfinite().all():
            raise ValueError(
                f"diffusion {type(self.diffusion).__name__} is infinite at t = 0 on the path "
                f"{type(self.interpolant).__name__}; choose another form"
            )

    def times(self) -> list[float]:
        """Return the times at which the velocity is evaluated."""
        return _grid(1.0 - self.last_step, self.steps - 1)

    def integrate(
        self,
        velocity: Velocity,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource,
        on_step: StepCallback = _ignore,
    ) -> Float[Tensor, " b *dims"]:
        """Carry noise ``x`` at t = 0 to data at t = 1, asking ``noise`` for fresh noise at every step but the last."""
        x = x.float()
        times = self.times()
        length = (1.0 - self.last_step) / (self.steps - 1)
        for step, t in enumerate(times[:-1]):
            drift, coefficient = self._drift(velocity, x, t)
            fresh = noise(tuple(x.shape[1:]), x.device)
            x = x + drift * length + (2.0 * length * coefficient).sqrt() * fresh
            on_step(step + 1, x)
        drift, _ = self._drift(velocity, x, times[-1])
        x = x + drift * self.last_step
        on_step(self.steps, x)
        return x

    def _drift(self, velocity: Velocity, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        v, times = _evaluate(velocity, x, t)
        coefficient = expand(self.diffusion(self.interpolant, times), x)
        return v + coefficient * self.interpolant.score_from_velocity(v, x, times), coefficient


Solver = Euler | Heun | EulerMaruyama
"""Any solver; each has ``times()`` and ``integrate(velocity, x, noise, on_step)``."""
