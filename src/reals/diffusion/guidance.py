"""Guidance as a wrapper: a network with labels becomes an output of position and time.

Two kinds, by what the network is pushed away from: itself without a label (classifier-free guidance, Ho & Salimans,
2022), or a weaker network with the same label (autoguidance, Karras et al., 2024). In both the output is
``r + w (c - r)``, with c the network's conditional prediction and r the other one.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(x, t, labels)``; what t means is the diffusion process's affair."""

Output = Callable[[Tensor, Tensor], Tensor]
"""``output(x, t)`` with one time per sample: what the network predicts, guided or not."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``velocity(x, t)`` with one time per sample, 0 at noise and 1 at data; returns a tensor like ``x``."""

NoiseLevel = Callable[[Tensor], Tensor]
"""``noise_level(t)``, between 0 (data) and 1 (pure noise): the unit of guidance intervals."""

# Times reach us in float32: 1 - 0.7 must count as 0.3.
_TOLERANCE = 1e-6


def flow_noise_level(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return 1 - t, the noise level where time runs from noise (0) to data (1)."""
    return 1.0 - t


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strong guidance is, and where (Kynkäänniemi et al., 2024); what it is guided by, :func:`guide` is told."""

    scale: float = 1.0
    """Weight w in r + w (c - r); 1 is off, 0 is the unconditional (or the weaker) prediction alone."""
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

    def guided(self, times: Iterable[float], noise_level: NoiseLevel = flow_noise_level) -> int:
        """Return at how many of ``times`` guidance is on: the forward passes per image that it adds.

        With autoguidance these are the weaker network's, and the network itself has one per time.
        """
        if self.scale == 1.0:
            return 0
        evaluated = torch.tensor(list(times), device="cpu")
        return int(_inside(noise_level(evaluated), self.interval).sum())

    def forwards(self, times: Iterable[float], noise_level: NoiseLevel = flow_noise_level) -> int:
        """Return the network's forward passes per image for outputs at ``times``: 2 where guided, else 1.

        This is classifier-free guidance's count; with autoguidance it is the sum over both networks.
        """
        evaluated = list(times)
        return len(evaluated) + self.guided(evaluated, noise_level)


def guide(
    network: Network,
    labels: Int[Tensor, " b"],
    null_label: int,
    guidance: Guidance,
    *,
    weaker: Network | None = None,
    noise_level: NoiseLevel = flow_noise_level,
) -> Output:
    """Return the guided output of ``network`` for ``labels``.

    What guidance does not ask for is not computed: nothing beside the conditional prediction for w = 1, and beside it
    only the samples whose noise level lies in the interval. The unconditional ones share its forward pass.

    Only the channels of x are guided. Those that a network predicts beyond them, a learned variance, are the
    conditional prediction's, as in DiT.

    Args:
        network: the network to guide.
        labels: one class per sample.
        null_label: the class that stands for none; not used with ``weaker``.
        guidance: how strong, where, and for which channels.
        weaker: guides by the difference from this network's prediction for the same labels (autoguidance), not from
            the unconditional one. A smaller or less trained version of ``network``, for the same data and process;
            it needs to predict only the channels that are guided.
        noise_level: of a time. The default is flow matching's; Gaussian diffusion brings its own.

    The output takes ``t`` on the device of ``x`` or on the CPU. On the CPU is better where x is on an accelerator:
    where to guide is then known without waiting for the accelerator to finish its work so far.
    """

    def conditional(x: Float[Tensor, " b c *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b outputs *dims"]:
        return network(x, t.to(x.device, non_blocking=True), labels)

    def guided(x: Float[Tensor, " b c *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b outputs *dims"]:
        rows = _rows(_inside(noise_level(t), guidance.interval), x.device)
        if rows is None:
            return conditional(x, t)
        t = t.to(x.device, non_blocking=True)
        if weaker is None:
            null = torch.full_like(labels[rows], null_label)
            both = network(torch.cat([x, x[rows]]), torch.cat([t, t[rows]]), torch.cat([labels, null]))
            strong, other = both[: len(x)], both[len(x) :]
        else:
            strong, other = network(x, t, labels), weaker(x[rows], t[rows], labels[rows])
        channels = x.shape[1] if guidance.channels is None else min(guidance.channels, x.shape[1])
        # In float32: in bfloat16 the difference of two near predictions, enlarged w times, would be mostly rounding.
        output = strong.to(torch.float32, copy=True)
        output[rows, :channels] = torch.lerp(other[:, :channels].float(), output[rows, :channels], guidance.scale)
        return output

    return conditional if guidance.scale == 1.0 else guided


def _inside(noise_level: Float[Tensor, " b"], interval: tuple[float, float]) -> Bool[Tensor, " b"]:
    low, high = interval
    return (noise_level >= low - _TOLERANCE) & (noise_level <= high + _TOLERANCE)


def _rows(inside: Bool[Tensor, " b"], device: torch.device) -> slice | Int[Tensor, " rows"] | None:
    """Return which samples are guided, as an index on ``device``: None for none, a slice (no copy) for all."""
    count = int(inside.sum())
    if count == 0:
        return None
    if count == len(inside):
        return slice(None)
    return inside.nonzero()[:, 0].to(device, non_blocking=True)
