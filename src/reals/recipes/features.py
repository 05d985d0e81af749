"""Semantic features of the photos that stage 1 trains on: from a cache, or computed at each visit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from reals.data.store import ImageStore
from reals.latents.features import FeatureCache, FeatureStatistics, cache_features, cached_bytes, feature_statistics
from reals.models.autoencoder import downsampling, load_autoencoder
from reals.models.semantic import Features, SemanticEncoder
from reals.recipes.schema import Recipe
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import say
from reals.runtime.seed import derive_seed
from reals.training.precision import autocast_dtype

_FEATURE_STATISTICS_IMAGES = 2_000
_BATCH = 250


@runtime_checkable
class FeatureSource(Protocol):
    """Where the semantic features of training images come from: a cache, or the encoder itself."""

    patch_dim: int
    """Length of a patch feature."""

    def statistics(self, *, centre_positions: bool) -> FeatureStatistics:
        """Measure per-channel mean and deviation, for the heads."""
        ...

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Return the features of a batch of stored images, given as :class:`StoreImages` does, and of its pixels."""
        ...


class CachedFeatures:
    """Features computed once for every training image and its mirror image."""

    def __init__(self, cache: FeatureCache):
        self._cache = cache
        self.patch_dim = cache.get(np.zeros(1, dtype=np.int64)).patch.shape[-1]
        rows = cache.rows
        self._order = np.argsort(rows)
        self._sorted = rows[self._order]

    def statistics(self, *, centre_positions: bool) -> FeatureStatistics:
        """Measure an evenly spread part of the cached images."""
        features = (self._cache.get(block) for block in _spread_blocks(len(self._cache)))
        return feature_statistics(features, centre_positions=centre_positions)

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Look the batch up."""
        positions = self._order[np.searchsorted(self._sorted, images["row"].numpy())]
        found = self._cache.get(positions, images["mirrored"].numpy())
        return Features(found.patch.to(pixels.device), found.pooled.to(pixels.device))


class ComputedFeatures:
    """Features computed anew at each visit, for data sets whose cache would not fit."""

    def __init__(
        self,
        encoder: SemanticEncoder,
        grid: tuple[int, int],
        store: ImageStore,
        rows: np.ndarray,
        device: torch.device,
    ):
        self._encoder, self._grid, self._store, self._rows = encoder, grid, store, rows
        self._device = device
        self.patch_dim = encoder.patch_dim

    def statistics(self, *, centre_positions: bool) -> FeatureStatistics:
        """Measure an evenly spread part of the images."""
        blocks = (self._store.load(self._rows[block]) for block in _spread_blocks(len(self._rows)))
        features = (self._encoder(to_pixels(block).to(self._device), self._grid) for block in blocks)
        return feature_statistics(features, centre_positions=centre_positions)

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Run the encoder."""
        return self._encoder(pixels, self._grid)


def _spread_blocks(count: int) -> Iterator[np.ndarray]:
    """Yield evenly spaced positions: rows are in the order of the files, the first ones of the first classes."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, _FEATURE_STATISTICS_IMAGES)).astype(np.int64))
    for start in range(0, len(chosen), _BATCH):
        yield chosen[start : start + _BATCH]


def training_rows(recipe: Recipe, store: ImageStore) -> np.ndarray:
    """Return the rows that stage 1 trains on: a random subset, since photos in class folders are sorted by class."""
    generator = np.random.default_rng(derive_seed(recipe.seed, "stage 1 images"))
    return np.sort(generator.permutation(store.train)[: recipe.stage1.images])


def open_features(
    recipe: Recipe, store: ImageStore, start: str, directory: Path, device: torch.device
) -> FeatureSource:
    """Cache the semantic features of the training images, or prepare to compute them where they would not fit.

    Raises:
        UserError: the encoder cannot be loaded, or the directory caches other features.
    """
    rows = training_rows(recipe, store)
    side = store.size // downsampling(load_autoencoder(start))
    grid = (side, side)
    dtype = autocast_dtype(recipe.stage1.training.precision)
    encoder = recipe.semantic.build(device, dtype)
    needed = cached_bytes(len(rows), grid, encoder.patch_dim, encoder.pooled_dim)
    if needed > recipe.stage1.feature_cache_gigabytes * 1e9:
        say(f"semantic features would need {needed / 1e9:.1f} GB on disk: computing them on the fly")
        return ComputedFeatures(encoder, grid, store, rows, device)
    cache_features(
        encoder,
        store.load,
        rows,
        grid,
        directory,
        batch_size=64,
        device=device,
        dtype=dtype,
        metadata={"photos": store.fingerprint},
    )
    return CachedFeatures(FeatureCache(directory))
