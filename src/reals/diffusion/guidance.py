"""Classifier-free guidance as a wrapper: a network with labels becomes a velocity of position and time."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(x, t, labels)``; times are 0 at noise and 1 at data."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, t)`` with one time per sample; returns a tensor like ``x``."""

# Times reach us in float32: 1 - 0.7 must count as 0.3.
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans, 2022), restricted to an interval (Kynkäänniemi et al., 2024)."""

    scale: float = 1.0
    """Weight w in u + w (c - u); 1 is off, 0 is unconditional."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which guidance is on, both included; 1 is pure noise, so the paper's setting is 0 0.75."""
    channels: int | None = None
    """Guide only this many leading channels, or None for all; SiT's and DiT's published numbers guide 3 of 4."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance scale is {self.scale}; it must be finite and not negative (1 is off)")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"guidance interval is {low} to {high}; it must lie within 0 (data) to 1 (pure noise)")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"guidance channels is {self.channels}; it must be at least 1, or None for all")

    def forwards(self, times: Iterable[float]) -> int:
        """Return the network's forward passes per image for velocities at ``times``: 2 where guided, else 1."""
        evaluated = torch.tensor(list(times), device="cpu")
        return len(evaluated) + (0 if self.scale == 1.0 else int(_guided(evaluated, self.interval).sum()))


def guide(network: Network, labels: Int[Tensor, " b"], null_label: int, guidance: Guidance) -> Velocity:
    """Return the velocity u + w (c - u) of ``network`` for ``labels``.

    The unconditional half is computed only for samples whose noise level 1 - t lies in the interval, in the same
    forward pass as the conditional one; not at all for w = 1.
    """

    def conditional(x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b *dims"]:
        return network(x, t, labels)

    def guided(x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b *dims"]:
        rows = _guided(t, guidance.interval).nonzero()[:, 0]
        if len(rows) == 0:
            return network(x, t, labels)
        null = labels.new_full((len(rows),), null_label)
        both = network(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), torch.cat([labels, null]))
        # In float32: in bfloat16 the difference of two near predictions, enlarged w times, would be mostly rounding.
        velocity = both[: len(x)].to(torch.float32, copy=True)
        without = both[len(x) :, : guidance.channels].float()
        velocity[rows, : guidance.channels] = torch.lerp(without, velocity[rows, : guidance.channels], guidance.scale)
        return velocity

    return conditional if guidance.scale == 1.0 else guided


def _guided(t: Float[Tensor, " b"], interval: tuple[float, float]) -> Bool[Tensor, " b"]:
    low, high = interval
    noise_level = 1.0 - t
    return (noise_level >= low - _TOLERANCE) & (noise_level <= high + _TOLERANCE)
