"""A field to integrate: what every solver is given, whatever network, prediction and guidance made it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.guidance import Velocity
from reals.diffusion.interpolant import Interpolant


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A velocity field dx/dt = v(x, t) and the times between which it may be evaluated."""

    velocity: Velocity
    """``velocity(x, t)`` with one time per sample, on the device of ``x`` or the CPU; returns a tensor like ``x``."""
    interpolant: Interpolant
    """The path that the field belongs to; stochastic solvers derive the score by it."""
    start: float
    """Time at which integration begins."""
    end: float
    """Time at which integration ends; before ``start`` if the flow runs from data to noise."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie from 0 (noise) to 1 (data)")
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}; there is nothing to integrate")

    def reverse(self) -> "Flow":
        """Return the same field, integrated the other way."""
        return replace(self, start=self.end, end=self.start)


class CountedVelocity:
    """A velocity that remembers when it was evaluated: the only way to know what an adaptive solver costs."""

    def __init__(self, velocity: Velocity):
        """Wrap ``velocity``."""
        self._velocity = velocity
        self._times: list[Tensor] = []

    def __call__(self, x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b *dims"]:
        """Return the velocity at ``x`` and ``t``; all samples are at the same time when a solver asks."""
        # Kept on the device: reading each would make the accelerator wait.
        self._times.append(t[:1].detach())
        return self._velocity(x, t)

    @property
    def times(self) -> list[float]:
        """The times of all evaluations so far, in order."""
        return torch.cat(self._times).tolist() if self._times else []
