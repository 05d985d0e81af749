"""A stand-in for FID's network that costs nothing: random projections of a few pixels, of the same dimensions."""

import numpy as np

from reals.evaluation.inception import InceptionFeatures

_PIXELS = 48


class CheapInception(InceptionFeatures):
    """Counts the images it has seen."""

    def __init__(self, seed: int = 0):
        self.fingerprint, self.published = f"{seed:064x}", True
        generator = np.random.default_rng(seed)
        self._projection = generator.normal(size=(_PIXELS, self.dimension)).astype(np.float32)
        self._classes = generator.normal(size=(2048, 1008)).astype(np.float32) / 30
        self.seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        flat = images.reshape(len(images), -1)[:, :_PIXELS].astype(np.float32) / 128 - 1
        return np.maximum(flat @ self._projection, 0) / 8

    def probabilities(self, pool: np.ndarray) -> np.ndarray:
        exponentials = np.exp(pool @ self._classes)
        return exponentials / exponentials.sum(axis=1, keepdims=True)
