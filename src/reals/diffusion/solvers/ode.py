"""Solvers of the probability flow dx/dt = v(x, t) on a fixed grid."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.flow import Flow
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers.grid import Precision, StepCallback, evaluate, grid, ignore_step


@dataclass(frozen=True, kw_only=True)
class _FixedGrid(Precision):
    steps: int = 50
    """Intervals between noise and data."""
    count_points: bool = False
    """Let steps count the points of the grid, both ends included, as SiT does: its 50 steps are 49 intervals."""

    def __post_init__(self) -> None:
        least = 2 if self.count_points else 1
        if self.steps < least:
            raise ValueError(f"steps is {self.steps}; it must be at least {least}")

    @property
    def intervals(self) -> int:
        """How many steps are taken."""
        return self.steps - 1 if self.count_points else self.steps


@dataclass(frozen=True, kw_only=True)
class Euler(_FixedGrid):
    """First-order solver of dx/dt = v(x, t); one velocity evaluation a step."""

    def times(self, start: float, end: float) -> list[float]:
        """Return the times at which the velocity is evaluated from ``start`` to ``end``."""
        return grid(start, end, self.intervals)[:-1]

    def integrate(
        self,
        flow: Flow,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource | None = None,
        on_step: StepCallback = ignore_step,
    ) -> Float[Tensor, " b *dims"]:
        """Carry ``x`` from the flow's start to its end; ``noise`` is not used."""
        x = x.to(self.dtype)
        for step, (t, following) in enumerate(pairwise(grid(flow.start, flow.end, self.intervals))):
            x = x + evaluate(flow, x, t)[0] * (following - t)
            on_step(step + 1, x)
        return x


@dataclass(frozen=True, kw_only=True)
class Heun(_FixedGrid):
    """Second-order solver of dx/dt = v(x, t), the explicit trapezoid; two velocity evaluations a step."""

    def times(self, start: float, end: float) -> list[float]:
        """Return the times at which the velocity is evaluated from ``start`` to ``end``."""
        return [t for interval in pairwise(grid(start, end, self.intervals)) for t in interval]

    def integrate(
        self,
        flow: Flow,
        x: Float[Tensor, " b *dims"],
        noise: NoiseSource | None = None,
        on_step: StepCallback = ignore_step,
    ) -> Float[Tensor, " b *dims"]:
        """Carry ``x`` from the flow's start to its end; ``noise`` is not used."""
        x = x.to(self.dtype)
        for step, (t, following) in enumerate(pairwise(grid(flow.start, flow.end, self.intervals))):
            length = following - t
            first = evaluate(flow, x, t)[0]
            second = evaluate(flow, x + first * length, following)[0]
            x = x + (first + second) * (length / 2)
            on_step(step + 1, x)
        return x
