"""Which times are trained on: maps of a uniform quantile in [0, 1) to a time; the random number is the caller's."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every time is as frequent as any other, as in SiT."""

    def __call__(self, quantile: Float[Tensor, " b"], start: float, end: float) -> Float[Tensor, " b"]:
        """Return the times in [start, end] at the quantiles."""
        return start + (end - start) * quantile


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """The logit of a time is normal, so that the middle of the path is trained most (Esser et al., 2024: SD3).

    Time runs from noise to data here. SD3's runs the other way, so its mean m is -m here; LightningDiT's is the same.
    """

    mean: float = 0.0
    """Mean of the logit; above 0, times near the data are the more frequent ones."""
    std: float = 1.0
    """Standard deviation of the logit; small ones keep to the middle."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean is {self.mean}; it must be finite")
        if not 0.0 < self.std < math.inf:
            raise ValueError(f"std is {self.std}; it must be positive and finite")

    def __call__(self, quantile: Float[Tensor, " b"], start: float, end: float) -> Float[Tensor, " b"]:
        """Return the times in [start, end] at the quantiles; quantile 0 is ``start``."""
        return start + (end - start) * torch.sigmoid(self.mean + self.std * torch.special.ndtri(quantile))


TimeDistribution = Uniform | LogitNormal
"""Any distribution of training times."""
