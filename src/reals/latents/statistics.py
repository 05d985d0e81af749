"""How large latents are: mean, standard deviation and extremes, measured once per autoencoder."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    count: int | None
    """Images measured (the authors of ReaLS take 10,000), or None where a file of theirs does not say."""

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
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


def latent_statistics(batches: Iterable[Float[Tensor, "_ c rows columns"]]) -> LatentStatistics:
    """Return the statistics of batches of raw latents (posterior samples)."""
    accumulator = LatentStatisticsAccumulator()
    with torch.no_grad():
        for latents in batches:
            accumulator.update(latents)
    return accumulator.result()


def write_statistics(directory: Path, statistics: LatentStatistics) -> None:
    """Write ``mean_std.json`` into an autoencoder's directory: the authors' four numbers and, if known, the count."""
    values = dataclasses.asdict(statistics)
    write_json(directory / STATISTICS_NAME, {name: value for name, value in values.items() if value is not None})


def read_statistics(directory: Path) -> LatentStatistics:
    """Read ``mean_std.json`` of an autoencoder's directory.

    Raises:
        UserError: it is missing or malformed.
    """
    return read_statistics_file(directory / STATISTICS_NAME)


def read_statistics_file(path: Path) -> LatentStatistics:
    """Read a file like ``mean_std.json``, ours or the authors', which lacks the count.

    Each number may stand in a list of its own, as an array of one element is written.

    Raises:
        UserError: it is missing or malformed, or has several numbers of a kind, one per channel.
    """
    values = read_json(path)
    if isinstance(values, dict):
        values = {"count": None} | {name: _single(value, f"{path}.{name}") for name, value in values.items()}
    return from_dict(LatentStatistics, values, str(path))


def _single(value: Any, where: str) -> Any:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        raise UserError(f"{where}: has {len(value)} numbers; normalisation takes one for all channels")
    return value


def mapped_statistics(statistics: LatentStatistics, shift: float, scale: float) -> LatentStatistics:
    """Return the statistics of (z - shift) · scale from those of z."""
    ends = sorted((end - shift) * scale for end in (statistics.min, statistics.max))
    return LatentStatistics(
        mean=(statistics.mean - shift) * scale,
        std=statistics.std * abs(scale),
        min=ends[0],
        max=ends[1],
        count=statistics.count,
    )
