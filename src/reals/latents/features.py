"""Semantic features of stored images, computed once where there is room for them, and their statistics."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.latents.encoding import VIEWS, Load, encode_views
from reals.models.semantic import Features, SemanticEncoder
from reals.runtime.errors import UserError
from reals.runtime.shards import ShardedArrays

_BYTES = 2
"""Of a float16."""


class FeatureStatistics(NamedTuple):
    """Mean and standard deviation of every feature channel, float32; a constant channel has deviation 1."""

    patch_mean: Float[Tensor, "*grid d"]
    """Over images and cells; or over images alone, [rows, columns, d], where positions are centred."""
    patch_std: Float[Tensor, " d"]
    """Over images and cells, around that mean."""
    pooled_mean: Float[Tensor, " e"]
    """Over images."""
    pooled_std: Float[Tensor, " e"]
    """Likewise."""

    def neutral(self) -> "FeatureStatistics":
        """Return statistics of the same sizes that leave features as they are, but for centring positions."""
        centred = self.patch_mean.dim() > 1
        return FeatureStatistics(
            patch_mean=self.patch_mean if centred else torch.zeros_like(self.patch_mean),
            patch_std=torch.ones_like(self.patch_std),
            pooled_mean=torch.zeros_like(self.pooled_mean),
            pooled_std=torch.ones_like(self.pooled_std),
        )


def feature_statistics(batches: Iterable[Features], *, centre_positions: bool = False) -> FeatureStatistics:
    """Return per-channel statistics of batches of features, accumulated in float64.

    With ``centre_positions`` the mean patch feature is taken at each cell: the template that all images share. Photos
    are mirrored in training, so the template is made symmetric.

    Raises:
        UserError: there are no features.
    """
    patch, pooled, grid = _ChannelMoments(), _ChannelMoments(), (0, 0)
    for batch in batches:
        grid = (batch.patch.shape[1], batch.patch.shape[2])
        patch.update(batch.patch.flatten(1) if centre_positions else batch.patch.flatten(0, 2))
        pooled.update(batch.pooled)
    mean, variance = patch.moments()
    if centre_positions:
        mean, variance = (side.unflatten(0, (*grid, -1)) for side in (mean, variance))
        template = 0.5 * (mean + mean.flip(1))
        variance, mean = (variance + (mean - template).square()).mean(dim=(0, 1)), template
    return FeatureStatistics(
        patch_mean=mean.float(),
        patch_std=_deviation(mean.flatten(0, -2).mean(dim=0) if centre_positions else mean, variance),
        pooled_mean=pooled.moments()[0].float(),
        pooled_std=_deviation(*pooled.moments()),
    )


def _deviation(mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    std = variance.sqrt()
    # A channel that never moves carries nothing; dividing by its deviation would make noise of rounding errors.
    return torch.where(std > 1e-5 * (1.0 + mean.abs()), std, torch.ones_like(std)).float()


class _ChannelMoments:
    """Mean and squared deviation of each channel, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(())
        self._squares = torch.zeros(())

    def update(self, values: Float[Tensor, "n d"]) -> None:
        values = values.detach().cpu().double()
        count, mean = len(values), values.mean(dim=0)
        total, difference = self._count + count, mean - self._mean
        spread = (values - mean).square().sum(dim=0)
        self._squares = self._squares + spread + difference.square() * (self._count * count / total)
        self._mean = self._mean + difference * (count / total)
        self._count = total

    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Return mean and variance, float64."""
        if self._count == 0:
            raise UserError("feature statistics: no features to measure; give at least one image")
        return self._mean, self._squares / self._count


def cached_bytes(rows: int, grid: tuple[int, int], patch_dim: int, pooled_dim: int) -> int:
    """Return the disk space of cached features: float16, of every image and its mirror image."""
    return rows * VIEWS * _BYTES * (grid[0] * grid[1] * patch_dim + pooled_dim)


def cache_features(
    encoder: SemanticEncoder,
    load: Load,
    rows: Int[np.ndarray, " n"],
    grid: tuple[int, int],
    directory: Path,
    *,
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, Any],
) -> None:
    """Write features of some stored images and of their mirror images, float16; resumable.

    Args:
        encoder: on ``device``.
        load: from store rows to uint8 [n, h, w, 3].
        rows: which images; position i of the cache is store row ``rows[i]``.
        grid: rows and columns of cells, as the latent has.
        directory: read back by :class:`FeatureCache`.
        batch_size: images at once.
        device: where the encoder is.
        dtype: float32, or the precision of autocast.
        metadata: what identifies the images; encoder, grid and rows are added.

    Raises:
        UserError: the directory holds features of another encoder, grid or set of images.
    """
    rows = rows.astype(np.int64)

    def encode(pixels: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return encoder(pixels, grid)._asdict()

    encode_views(
        directory,
        rows,
        load,
        encode,
        names=("row", "patch", "pooled"),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        metadata={
            **metadata,
            "encoder": encoder.name,
            "weights": encoder.fingerprint,
            "grid": list(grid),
            "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        },
        description="semantic features",
        extra=lambda start, stop: {"row": rows[start:stop]},
    )


class FeatureCache:
    """Reads what :func:`cache_features` wrote."""

    def __init__(self, directory: Path):
        """Open ``directory``.

        Raises:
            UserError: the directory is absent or incomplete.
        """
        self._arrays = ShardedArrays(directory)
        self.metadata = self._arrays.metadata

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def rows(self) -> Int[np.ndarray, " n"]:
        """The store row of each position."""
        return self._arrays.all("row")

    def get(self, positions: Int[np.ndarray, " b"], mirrored: Bool[np.ndarray, " b"] | bool = False) -> Features:
        """Return features of images or, where ``mirrored``, of their mirror images, float32.

        Args:
            positions: in the cache, 0 to len(self) - 1; not store rows.
            mirrored: for all, or for each.
        """
        view = mirrored.astype(np.int64) if isinstance(mirrored, np.ndarray) else int(mirrored)
        patch, pooled = (torch.from_numpy(self._arrays.gather(name, positions, view)) for name in ("patch", "pooled"))
        return Features(patch=patch.float(), pooled=pooled.float())

    def batches(self, limit: int | None = None, batch_size: int = 256) -> Iterator[Features]:
        """Yield the features of the first ``limit`` images, unmirrored, in order; for statistics and probes."""
        count = len(self) if limit is None else min(limit, len(self))
        for start in range(0, count, batch_size):
            yield self.get(np.arange(start, min(start + batch_size, count)))
