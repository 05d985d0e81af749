"""Semantic features of the images that the generator trains on, for REPA: those of stage 1, from the same cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.data.store import ImageStore
from reals.recipes.features import CachedFeatures, FeatureSource, open_features, training_rows
from reals.recipes.schema import Recipe
from reals.runtime.pixels import to_pixels


class GeneratorFeatures:
    """Patch features by row of the latent cache; row i is training photo ``store.train[i]``."""

    def __init__(self, source: FeatureSource, store: ImageStore, device: torch.device):
        """Look features up in ``source``, or have it compute them on ``device``."""
        self._source = source
        self._store = store
        self._device = device
        self.patch_dim = source.patch_dim
        self.photos = store.fingerprint
        """What identifies the photos; the latents must be of the same."""

    def __call__(
        self, rows: Int[np.ndarray, " b"], mirrored: Bool[np.ndarray, " b"]
    ) -> Float[Tensor, "b grid_rows grid_columns d"]:
        """Return features of these images, or of their mirror images where ``mirrored``, on the device."""
        stored = self._store.train[rows]
        asked = {"row": torch.from_numpy(stored), "mirrored": torch.from_numpy(mirrored)}
        patches = self._source(asked, self._pixels(stored, mirrored)).patch
        if patches.device != self._device:
            # Pinned, the copy need not wait for what the device is busy with.
            patches = (patches.pin_memory() if self._device.type == "cuda" else patches).to(
                self._device, non_blocking=True
            )
        return patches

    def _pixels(self, stored: np.ndarray, mirrored: np.ndarray) -> Float[Tensor, "b 3 h w"]:
        if isinstance(self._source, CachedFeatures):
            # A cache asks only where its answer is wanted.
            return torch.empty(0, 3, 0, 0)
        images = self._store.load(stored)
        images[mirrored] = images[mirrored, :, ::-1]
        return to_pixels(images).to(self._device)


def open_generator_features(
    recipe: Recipe, store: ImageStore, start: str, stage_one: Path, own: Path, device: torch.device
) -> GeneratorFeatures:
    """Open, compute and cache, or prepare to compute, features of every training photo on the latent grid.

    REPA shows its encoder images of such a size that its patches are the transformer's tokens. Here they are stage 1's
    features, one per latent position, which the loss averages over the positions of a token: nothing is computed twice.

    Args:
        recipe: its semantic encoder, and its limit on cached features.
        store: the photos.
        start: the autoencoder that the arms start from, or any on the same grid.
        stage_one: stage 1's cache, used where stage 1 trains on every photo.
        own: used where it does not.
        device: where the encoder computes.

    Raises:
        UserError: the encoder cannot be loaded, or the directory caches other features.
    """
    everything = replace(recipe, stage1=replace(recipe.stage1, images=None))
    shared = len(training_rows(recipe, store)) == len(store.train)
    source = open_features(everything, store, start, stage_one if shared else own, device)
    return GeneratorFeatures(source, store, device)
