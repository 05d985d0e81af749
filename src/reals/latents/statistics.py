"""How large latents are: mean, standard deviation and extremes, measured once per autoencoder."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from reals.runtime.config import from_dict
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json

STATISTICS_NAME = "mean_std.json"


@dataclass(frozen=True, kw_only=True)
class LatentStatistics:
    """Of all elements of raw posterior samples, over all channels and positions."""

    mean: float
    """Average."""
    std: float
    """Standard deviation around the average."""
    min: float
    """Smallest element; it depends on how many images were seen."""
    max: float
    """Largest element; likewise."""
    count: int
    """Images measured; the authors of ReaLS take 10,000."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")
        if not all(math.isfinite(value) for value in (self.mean, self.std, self.min, self.max)):
            raise ValueError("latent statistics are not finite")


class LatentStatisticsAccumulator:
    """Adds up statistics batch by batch, in float64, so that latents need not be held together.

    Batches are merged as by Chan, Golub and LeVeque (1979), free of the cancellation of E[z²] - E[z]².
    """

    def __init__(self) -> None:
        self._images = 0
        self._elements = 0
        self._mean = 0.0
        self._squares = 0.0
        self._min = math.inf
        self._max = -math.inf

    def update(self, latents: Float[Tensor, "b c rows columns"]) -> None:
        """Take a batch of raw latents into account."""
        values = latents.detach().double()
        elements, mean = values.numel(), float(values.mean())
        total, difference = self._elements + elements, mean - self._mean
        self._squares += float((values - mean).square().sum()) + difference**2 * self._elements * elements / total
        self._mean += difference * elements / total
        self._elements = total
        self._images += len(latents)
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))

    def result(self) -> LatentStatistics:
        """Return the statistics of everything seen.

        Raises:
            UserError: nothing was seen, or a latent was not finite.
        """
        if self._elements == 0:
            raise UserError("latent statistics: no latents to measure; give at least one image")
        std = math.sqrt(self._squares / self._elements)
        if not math.isfinite(std):
            raise UserError("latent statistics: some latents are not finite; the autoencoder's training has diverged")
        return LatentStatistics(mean=self._mean, std=std, min=self._min, max=self._max, count=self._images)


def latent_statistics(batches: Iterable[Float[Tensor, "b c rows columns"]]) -> LatentStatistics:
    """Return the statistics of batches of raw latents (posterior samples)."""
    accumulator = LatentStatisticsAccumulator()
    with torch.no_grad():
        for latents in batches:
            accumulator.update(latents)
    return accumulator.result()


def write_statistics(directory: Path, statistics: LatentStatistics) -> None:
    """Write ``mean_std.json`` into an autoencoder's directory."""
    write_json(directory / STATISTICS_NAME, dataclasses.asdict(statistics))


def read_statistics(directory: Path) -> LatentStatistics:
    """Read ``mean_std.json`` of an autoencoder's directory.

    Raises:
        UserError: it is missing or malformed.
    """
    path = directory / STATISTICS_NAME
    return from_dict(LatentStatistics, read_json(path), str(path))
