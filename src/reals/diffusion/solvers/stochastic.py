"""Solvers of the Itô equation dx = (v + D ∇ log p) dt + √(2D) dW (SiT, section 2) on a fixed grid.

The score follows from the velocity on the same path, so drift and noise cost one evaluation, not two as in SiT.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.diffusion_coefficient import DiffusionCoefficient, SigmaDiffusion
from reals.diffusion.flow import Flow
from reals.diffusion.interpolant import expand
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers.grid import Precision, StepCallback, evaluate, grid, ignore_step, times_like
from reals.diffusion.solvers.last_step import LastStep, MeanStep, NoLastStep


@dataclass(frozen=True, kw_only=True)
class _Stochastic(Precision, ABC):
    steps: int = 250
    """Intervals between noise and data, the last step included."""
    last_step: LastStep = field(default_factory=MeanStep)
    """The step without noise that reaches the data."""
    diffusion: DiffusionCoefficient = field(default_factory=SigmaDiffusion)
    """How much noise is added along the way."""
    count_points: bool = False
    """Let steps count the points at which noise starts or stops, as SiT does: the same with a last step, one interval
    less without one."""

    def __post_init__(self) -> None:
        least = 1 if isinstance(self.last_step, NoLastStep) and not self.count_points else 2
        if self.steps < least:
            raise ValueError(f"steps is {self.steps}; it must be at least {least}")

    @property
    def intervals(self) -> int:
        """How many steps are taken, the last one included."""
        return self._strides + (0 if isinstance(self.last_step, NoLastStep) else 1)

    @property
    def _strides(self) -> int:
        return self.steps - (0 if isinstance(self.last_step, NoLastStep) and not self.count_points else 1)

    def times(self, start: float, end: float) -> list[float]:
        """Return the times at which the velocity is evaluated from ``start`` to ``end``.

        Raises:
            ValueError: the interval runs backwards, or does not reach to where the last step begins.
        """
        points = self._points(start, end)
        strides = [t for interval in pairwise(points) for t in self._stride_times(*interval)]
        return strides if isinstance(self.last_step, NoLastStep) else [*strides, points[-1]]

    def integrate(
        self,
        flow: Flow,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource,
        on_step: StepCallback = ignore_step,
    ) -> Float[Tensor, " b *dims"]:
        """Carry noise ``x`` at the flow's start to data, asking ``noise`` for fresh noise at every step but the last.

        Raises:
            ValueError: the flow runs from data to noise, or does not reach to where the last step begins.
        """
        self._check(flow)
        x = x.to(self.dtype)
        points = self._points(flow.start, flow.end)
        for step, (t, following) in enumerate(pairwise(points)):
            fresh = noise(tuple(x.shape[1:]), x.device).to(x.dtype)
            x = self._stride(flow, x, t, following, fresh)
            on_step(step + 1, x)
        if not isinstance(self.last_step, NoLastStep):
            velocity, times = evaluate(flow, x, points[-1])
            x = self.last_step.take(flow.interpolant, x, velocity, self._drift(flow, velocity, x, times), times)
            on_step(self.intervals, x)
        return x

    def _points(self, start: float, end: float) -> list[float]:
        if start > end:
            raise ValueError("a stochastic solver runs from noise to data only; use Euler, Heun or Dopri5 to go back")
        stop = end if isinstance(self.last_step, NoLastStep) else 1.0 - self.last_step.size
        if not start < stop <= end:
            raise ValueError(
                f"the last step would begin at t = {stop:g}, outside the interval {start:g} to {end:g} on which the "
                "field is known; choose another last step"
            )
        return grid(start, stop, self._strides)

    def _check(self, flow: Flow) -> None:
        """Raise ``ValueError`` if the flow has a value that is infinite where this solver asks for it."""

    def _drift(self, flow: Flow, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return v + D ∇ log p."""
        score = flow.interpolant.score_from_velocity(velocity, x, t)
        return velocity + expand(self.diffusion(flow.interpolant, t), x) * score

    def _kick(self, flow: Flow, fresh: Tensor, t: Tensor, length: float) -> Tensor:
        """Return √(2D) dW over a step of ``length``."""
        return expand((2.0 * length * self.diffusion(flow.interpolant, t)).sqrt(), fresh) * fresh

    @abstractmethod
    def _stride(self, flow: Flow, x: Tensor, t: float, following: float, fresh: Tensor) -> Tensor:
        """Return the state one step on."""

    @abstractmethod
    def _stride_times(self, t: float, following: float) -> list[float]:
        """Return the times at which a step evaluates the velocity."""


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(_Stochastic):
    """First-order solver of the stochastic equation; one velocity evaluation a step.

    ``steps - 1`` equal steps reach t = 1 - ``last_step.size``, and one without noise reaches t = 1. The defaults are
    the paper's setting. They are also REPA's sampler, whose grid ``linspace(1, 0.04, N)`` followed by 0 is, in its
    time, the one of ``steps=N``, and whose diffusion is 2σ dt; with ``float64=True`` the arithmetic is REPA's too.
    """

    def _stride(self, flow: Flow, x: Tensor, t: float, following: float, fresh: Tensor) -> Tensor:
        velocity, times = evaluate(flow, x, t)
        length = following - t
        return x + self._drift(flow, velocity, x, times) * length + self._kick(flow, fresh, times, length)

    def _stride_times(self, t: float, following: float) -> list[float]:
        return [t]


@dataclass(frozen=True, kw_only=True)
class StochasticHeun(_Stochastic):
    """SiT's "Heun": the step's noise is added first, then the drift by the trapezoid; two velocity evaluations a step.

    Second order where there is no noise; weakly of first order with it.
    """

    def _check(self, flow: Flow) -> None:
        noise_left = flow.interpolant.sigma(torch.tensor([flow.end], device="cpu")).item()
        if isinstance(self.last_step, NoLastStep) and noise_left == 0.0:
            raise ValueError(
                f"StochasticHeun without a last step needs the score at t = {flow.end:g}, where it is infinite; "
                "choose MeanStep, EulerStep or TweedieStep"
            )

    def _stride(self, flow: Flow, x: Tensor, t: float, following: float, fresh: Tensor) -> Tensor:
        length = following - t
        x = x + self._kick(flow, fresh, times_like(x, t), length)
        velocity, times = evaluate(flow, x, t)
        first = self._drift(flow, velocity, x, times)
        ahead = x + first * length
        velocity, times = evaluate(flow, ahead, following)
        return x + (first + self._drift(flow, velocity, ahead, times)) * (length / 2)

    def _stride_times(self, t: float, following: float) -> list[float]:
        return [t, following]
