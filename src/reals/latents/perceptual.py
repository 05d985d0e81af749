"""Perceptual losses: distances between reconstructions and images in a frozen network's features."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reals.models.semantic import EfficientNetLite0


@runtime_checkable
class PerceptualLoss(Protocol):
    """Anything that compares a reconstruction with its image, such as :class:`reals.models.lpips.LpipsDistance`.

    It is not trained, so it is no part of the objective's weights: a ``torch.nn.Module`` must be frozen and wrapped in
    a function.
    """

    def __call__(self, reconstruction: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch; differentiable with respect to ``reconstruction``."""
        ...


@runtime_checkable
class ShallowEncoder(Protocol):
    """A frozen network that gives early features, differentiably."""

    def shallow_features(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return feature maps [b, c, h/s, w/s], finest first, of pixels in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShallowFeatures:
    """Early layers of EfficientNet-Lite0: needs no download, and is not LPIPS."""

    def build(self, device: torch.device | str) -> "FeaturePerceptualLoss":
        """Load the network onto ``device``."""
        return FeaturePerceptualLoss(EfficientNetLite0().build(device))


class FeaturePerceptualLoss:
    """Squared distance between unit-length features of a network's early layers. It is NOT LPIPS.

    As in LPIPS (Zhang et al., 1801.03924, Eq. 1) features are scaled to unit length over channels and compared at
    each position; unlike LPIPS no per-channel weights were fitted to human judgements, layers are averaged instead
    of summed, and the network need not be VGG or AlexNet. Values of the two must not be compared. Range [0, 4].
    """

    def __init__(self, encoder: ShallowEncoder):
        self._encoder = encoder

    def __call__(self, reconstruction: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the distance, averaged over layers, positions and images, float32."""
        kind = pixels.device.type
        # A CPU's depthwise convolutions are slower in bfloat16: there the network stays in float32.
        with torch.autocast(kind, enabled=kind != "cpu" and torch.is_autocast_enabled(kind)):
            with torch.no_grad():
                targets = [_unit(layer) for layer in self._encoder.shallow_features(pixels)]
            layers = [_unit(layer) for layer in self._encoder.shallow_features(reconstruction.to(pixels.dtype))]
        distances = [(a - b).square().sum(dim=1).mean() for a, b in zip(layers, targets, strict=True)]
        return torch.stack(distances).mean()


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return F.normalize(features.float(), dim=1, eps=1e-6)
