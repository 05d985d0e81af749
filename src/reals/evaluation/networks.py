"""Networks that turn images into features, and the pass over a set of images that collects them."""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reals.evaluation.float32 import true_float32
from reals.models.semantic import EfficientNetLite0, Features
from reals.runtime import interrupt
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress


@runtime_checkable
class FeatureNetwork(Protocol):
    """What a metric needs from a network; every metric's name carries the network's."""

    name: str
    """Short name, such as ``"efficientnet-lite0"``."""
    dimension: int
    """Length of a feature vector. A Fréchet distance needs more images than this."""
    fingerprint: str
    """SHA-256 of the weights."""
    resize: str
    """What the network does to an image before looking at it, for the protocol."""

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Return one float32 feature vector per image."""
        ...


@runtime_checkable
class PatchEncoder(Protocol):
    """The part of a semantic encoder that :class:`LiteFeatures` uses."""

    patch_dim: int
    fingerprint: str

    def __call__(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Features:
        """Return one patch feature per cell of ``grid`` for pixels in [-1, 1]."""
        ...


class LiteFeatures:
    """EfficientNet-Lite0's last block (320 channels, stride 32), averaged over positions.

    The 1280 features behind the head are not used: a covariance of 1280 dimensions needs several times more samples
    than small studies have, and its Fréchet distance is then mostly bias.
    """

    name = "efficientnet-lite0"

    def __init__(self, encoder: PatchEncoder, side: int, device: torch.device | str = "cpu"):
        """Wrap a stride-32 encoder on ``device`` that is shown ``side`` x ``side`` pixels, a multiple of 32."""
        if side <= 0 or side % 32:
            raise ValueError(f"side must be a positive multiple of 32, not {side}")
        self._encoder = encoder
        self._device = torch.device(device)
        self._grid = (side // 32, side // 32)
        self.dimension = encoder.patch_dim
        self.fingerprint = encoder.fingerprint
        self.resize = f"{side}x{side} bicubic, antialiased"

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Return the position-averaged feature map of each image, computed in float32."""
        with true_float32():
            patch = self._encoder(to_pixels(images).to(self._device), self._grid).patch
        return patch.float().mean(dim=(1, 2)).cpu().numpy()


def lite_features(image_side: int, device: torch.device | str = "cpu") -> LiteFeatures:
    """Build :class:`LiteFeatures` for images of a given shorter side: shown at 128 pixels up to 128, else at 224.

    Lite0 was trained at 224; at 128 small photos are enlarged fourfold rather than sevenfold, at a third of the cost.
    """
    return LiteFeatures(EfficientNetLite0(stride=32).build(device), 128 if image_side <= 128 else 224, device)


def extract(
    network: FeatureNetwork,
    images: UInt8[np.ndarray, "n h w 3"] | Iterable[np.ndarray],
    *,
    total: int | None = None,
    batch_size: int = 256,
) -> Float[np.ndarray, "n d"]:
    """Collect the features of images, in order, holding one batch of images at a time.

    ``images`` is an array, or an iterable of uint8 blocks ``[b, h, w, 3]`` of any length, ``total`` images in all.

    Raises:
        ValueError: no image, blocks that do not add up to ``total``, or no ``total`` for an iterable.
        Interrupted: a signal asked the process to stop.
    """
    if isinstance(images, np.ndarray):
        blocks, total = iter((images,)), len(images)
    else:
        blocks = iter(images)
    if not total:
        raise ValueError("features need at least one image and, for an iterable, the number of images")
    features = np.empty((total, network.dimension), np.float32)
    done = 0
    with progress(f"Features {network.name}", total, "images") as shown:
        for batch in _batches(blocks, batch_size):
            interrupt.stop_if_requested(f"after the features of {done} of {total} images")
            if done + len(batch) > total:
                raise ValueError(f"more than the announced {total} images")
            features[done : done + len(batch)] = network(batch)
            done += len(batch)
            shown.advance(len(batch))
    if done != total:
        raise ValueError(f"{done} images instead of the announced {total}")
    return features


def _batches(blocks: Iterator[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    for block in blocks:
        for start in range(0, len(block), batch_size):
            yield block[start : start + batch_size]
