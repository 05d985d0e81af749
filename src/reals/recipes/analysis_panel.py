"""What every analysed latent space is shown: the same photos, networks and features, computed once."""

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reals.data.store import ImageStore
from reals.evaluation.bootstrap import Estimate, mean_estimate
from reals.evaluation.frechet import ResampledGaussians, frechet_estimate
from reals.evaluation.inception import InceptionFeatures, pool_features
from reals.evaluation.networks import FeatureNetwork, extract
from reals.latents.analysis.embedding import choose_by_class
from reals.models.lpips import LpipsDistance
from reals.models.semantic import SemanticEncoder
from reals.recipes.analysis_config import AnalysisConfig
from reals.runtime import interrupt
from reals.runtime.config import to_dict
from reals.runtime.memory import images_at_once
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress
from reals.runtime.seed import derive_seed

_BATCH = 100
_CELLS = 64


class EncoderView:
    """What the semantic encoder says of the panel's first photos, on a latent's grid."""

    def __init__(self, cells: np.ndarray, patch: np.ndarray, pooled: np.ndarray):
        self.cells = cells
        """Which cells of the flattened grid :attr:`patch` has: all, or 64 drawn by seed on a larger grid."""
        self.patch = patch
        """[n, cells, d], float32."""
        self.pooled = pooled
        """[n, e], float32."""


class Panel:
    """Photos, networks and features that all spaces share; everything heavy is computed when first asked for."""

    def __init__(
        self,
        config: AnalysisConfig,
        store: ImageStore,
        encoder: SemanticEncoder,
        networks: tuple[FeatureNetwork, ...],
        device: torch.device,
        lpips: LpipsDistance | None = None,
        inception: InceptionFeatures | None = None,
    ):
        self.config, self.store, self.encoder, self.networks, self.device = config, store, encoder, networks, device
        self.lpips = lpips
        self.inception = inception
        self.rows = self._choose(store.held_out, config.images, "held-out")
        self.probe_rows = self._choose(store.train, config.probe_images, "probe")
        self.reference_rows = self._choose(store.train, config.reference_images, "reference")
        self.at_once = images_at_once(store.size, _BATCH)
        """How many photos pass a network together."""
        self._views: dict[tuple[int, int], EncoderView] = {}

    def _choose(self, rows: np.ndarray, count: int, purpose: str) -> np.ndarray:
        """Return a random subset: photos in class folders are sorted by class, so the first ones will not do."""
        return np.random.default_rng(derive_seed(self.config.seed, "analysis", purpose)).permutation(rows)[:count]

    @cached_property
    def images(self) -> np.ndarray:
        """The held-out photos, uint8 NHWC."""
        return self.store.load(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """Their classes."""
        return self.store.labels[self.rows]

    @cached_property
    def map_rows(self) -> np.ndarray:
        """Store rows of the held-out photos on the t-SNE map, in class order; none without labels."""
        if not self.store.labelled:
            return np.empty(0, dtype=np.int64)
        labels = self.store.labels[self.store.held_out]
        config = self.config
        chosen = choose_by_class(labels, classes=config.map_classes, each=config.map_images, seed=config.seed)
        return self.store.held_out[chosen]

    @cached_property
    def inception_features(self) -> Float[np.ndarray, "n 2048"]:
        """What the FID Inception network makes of the held-out photos.

        Raises:
            ValueError: there is no such network.
        """
        if self.inception is None:
            raise ValueError("the panel was given no Inception network")
        return pool_features(extract(self.inception, self.images))

    @cached_property
    def images_hash(self) -> str:
        """SHA-256 of the held-out photos' bytes, in order."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()

    @cached_property
    def reference_hash(self) -> str:
        """SHA-256 of the reference photos' bytes, in order."""
        return hashlib.sha256(self.store.load(self.reference_rows).tobytes()).hexdigest()

    @cached_property
    def identity(self) -> str:
        """A hash of everything a space's numbers depend on except the space."""
        parts = {
            "format": 2,
            "config": to_dict(self.config),
            "images": self.store.fingerprint,
            "encoder": self.encoder.fingerprint,
            "networks": [network.fingerprint for network in self.networks],
        }
        if self.lpips is not None:
            parts["lpips"] = self.lpips.fingerprint
        if self.inception is not None:
            parts["inception"] = self.inception.fingerprint
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def mean(self, values: np.ndarray) -> Estimate:
        """Estimate the mean of one value per photo."""
        return mean_estimate(values, replicates=self.config.replicates)

    def exact(self, value: float) -> Estimate:
        """Return a number that is no mean over photos, hence without an interval."""
        return Estimate(float(value), np.full(self.config.replicates, np.nan))

    @cached_property
    def reference(self) -> dict[str, ResampledGaussians]:
        """The reference photos' features, by network."""
        images = self.store.load(self.reference_rows)
        return {network.name: self._gaussians(network, images, "reference") for network in self.networks}

    def _gaussians(self, network: FeatureNetwork, images: np.ndarray, role: str) -> ResampledGaussians:
        return ResampledGaussians.fit(extract(network, images), role=role, replicates=self.config.replicates)

    def distances(self, images: np.ndarray) -> dict[str, Estimate]:
        """Return the Fréchet distance of images to the reference photos, by network.

        All sets that are as large as the held-out photos are resampled alike, so differences between them are paired.
        """
        return {
            network.name: frechet_estimate(self.reference[network.name], self._gaussians(network, images, "samples"))
            for network in self.networks
        }

    @cached_property
    def real(self) -> dict[str, Estimate]:
        """Distance of the held-out photos themselves."""
        return {f"real/fd/{name}": estimate for name, estimate in self.distances(self.images).items()}

    def encoder_view(self, grid: tuple[int, int]) -> EncoderView:
        """Return the semantic encoder's features of the first photos on a grid."""
        if grid not in self._views:
            total = grid[0] * grid[1]
            generator = np.random.default_rng(derive_seed(self.config.seed, "cells", total))
            cells = np.sort(generator.permutation(total)[:_CELLS])
            images = self.images[: self.config.encoder_images]
            patches, pooled = [], []
            with progress("Semantic features", len(images), "images") as bar:
                for start in range(0, len(images), self.at_once):
                    interrupt.stop_if_requested("while computing semantic features")
                    found = self.encoder(to_pixels(images[start : start + self.at_once]).to(self.device), grid)
                    patches.append(_array(found.patch.flatten(1, 2)[:, torch.from_numpy(cells).to(self.device)]))
                    pooled.append(_array(found.pooled))
                    bar.advance(len(found.pooled))
            self._views[grid] = EncoderView(cells, np.concatenate(patches), np.concatenate(pooled))
        return self._views[grid]

    def protocol(self) -> dict[str, Any]:
        """Return what someone must know to repeat or to doubt the numbers."""
        store = self.store
        return {
            "images": {
                "what": "held-out photos, chosen by seed",
                "count": len(self.rows),
                "hash": self.images_hash,
                "size": store.size,
                "fingerprint": store.fingerprint,
                "classes": list(store.class_names),
            },
            "reference": {
                "what": "training photos, chosen by seed",
                "count": len(self.reference_rows),
                "hash": self.reference_hash,
            },
            "probes": {"fitted_on": len(self.probe_rows) if store.labelled else 0},
            "encoder": {
                "name": self.encoder.name,
                "fingerprint": self.encoder.fingerprint,
                "images": min(len(self.rows), self.config.encoder_images),
            },
            "feature_networks": {
                network.name: {"dimension": network.dimension, "fingerprint": network.fingerprint}
                for network in self.networks
            },
            "lpips": None if self.lpips is None else {"name": self.lpips.name, "fingerprint": self.lpips.fingerprint},
            "inception": None if self.inception is None else self.inception.fingerprint,
            "settings": to_dict(self.config),
        }


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
