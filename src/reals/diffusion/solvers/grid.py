"""What solvers on a fixed grid share.

A step is an interval: ``steps`` intervals make the path, where SiT's ``num_steps`` counts the points between them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reals.diffusion.flow import Flow

StepCallback = Callable[[int, Tensor], None]
"""Told the number of finished steps and the state after each of them."""


def ignore_step(step: int, x: Tensor) -> None:
    """Do nothing: the callback of those who do not watch."""


def grid(start: float, end: float, intervals: int) -> list[float]:
    """Return ``intervals + 1`` times at equal distances, both ends exact."""
    return [start + (end - start) * index / intervals for index in range(intervals)] + [end]


def times_like(x: Tensor, t: float) -> Tensor:
    """Return the time ``t`` once for every sample of ``x``."""
    return torch.full((len(x),), t, dtype=x.dtype, device=x.device)


def evaluate(flow: Flow, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return the velocity in the state's precision, whatever the network computes in, and the times it was taken at."""
    # On the CPU, so that whoever guides need not wait for an accelerator to learn the time.
    velocity = flow.velocity(x, torch.full((len(x),), t, dtype=x.dtype, device="cpu"))
    return velocity.to(x.dtype), times_like(x, t)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How precisely a solver keeps its state."""

    float64: bool = False
    """Keep the state in float64, as REPA does, instead of float32; networks see float32 either way."""

    @property
    def dtype(self) -> torch.dtype:
        """The state's type."""
        return torch.float64 if self.float64 else torch.float32
