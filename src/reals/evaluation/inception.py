"""The FID Inception network as a feature network: what its features mean and which metric reads which of them."""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from reals.evaluation.float32 import true_float32
from reals.evaluation.inception_score import CHUNK, inception_score
from reals.models.inception import (
    INCEPTION_SHA256,
    POOL_DIMENSION,
    SIDE,
    SPATIAL_DIMENSION,
    Inception,
    InceptionNetwork,
)
from reals.models.weights import fetch
from reals.runtime.io import sha256_file


class InceptionFeatures:
    """Both of the network's features side by side: the 2048 behind FID, then the 2023 behind sFID."""

    name = "inception-2015-12-05"
    dimension = POOL_DIMENSION + SPATIAL_DIMENSION
    resize = f"{SIDE}x{SIDE} bilinear as in TensorFlow 1, not antialiased"

    def __init__(self, network: InceptionNetwork, device: torch.device | str = "cpu", *, published: bool = True):
        """Wrap a network that lies on ``device``; ``published`` says whether its weights are those behind FIDs."""
        self.published = published
        self._network = network
        self._device = torch.device(device)
        self.fingerprint = network.fingerprint

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 4071"]:
        """Return the features of each image, computed in float32."""
        with true_float32():
            found = self._network(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        return torch.cat([found.pool, found.spatial], dim=1).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, pool: Float[np.ndarray, "n 2048"]) -> Float[np.ndarray, "n 1008"]:
        """Return the class probabilities behind Inception Score."""
        with true_float32():
            found = self._network.probabilities(torch.from_numpy(np.ascontiguousarray(pool)).to(self._device))
        return found.cpu().numpy()

    def score(self, pool: Float[np.ndarray, "n 2048"]) -> tuple[float, Float[np.ndarray, " n"]]:
        """Return the Inception Score and each image's influence on it."""
        return inception_score(self.probabilities(pool[start : start + CHUNK]) for start in range(0, len(pool), CHUNK))


def pool_features(features: Float[np.ndarray, "n 4071"]) -> Float[np.ndarray, "n 2048"]:
    """Return a view of the features behind FID."""
    return features[:, :POOL_DIMENSION]


def spatial_features(features: Float[np.ndarray, "n 4071"]) -> Float[np.ndarray, "n 2023"]:
    """Return a view of the features behind sFID."""
    return features[:, POOL_DIMENSION:]


def inception_features(weights: str, sha256: str | None, device: torch.device | str = "cpu") -> InceptionFeatures:
    """Load the network; ``weights`` and ``sha256`` as in :class:`reals.models.inception.Inception`."""
    network = Inception(weights=weights, sha256=sha256).build(device)
    # A hash that was asked for is the file's by now.
    found = sha256_file(fetch(weights)) if sha256 is None else sha256.lower()
    return InceptionFeatures(network, device, published=found == INCEPTION_SHA256)
