"""The smallest things that stage 1 can work on."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reals.latents.features import FeatureStatistics
from reals.models.autoencoder import AutoencoderConfig, AutoencoderKL
from reals.models.semantic import Features

PATCH, POOLED, CHANNELS, SIZE = 5, 7, 3, 8
GRID = (4, 4)


def autoencoder(seed: int = 0) -> AutoencoderKL:
    """8x8 pixels to 4x4 cells of 3 channels."""
    torch.manual_seed(seed)
    return AutoencoderConfig(
        block_channels=(8, 8), layers_per_block=1, latent_channels=CHANNELS, norm_groups=4, mid_attention=False
    ).build()


def statistics() -> FeatureStatistics:
    """Neither zero nor one, so that forgetting them shows."""
    return FeatureStatistics(
        patch_mean=torch.arange(PATCH).float(),
        patch_std=torch.arange(PATCH).float() + 2.0,
        pooled_mean=torch.arange(POOLED).float() - 3.0,
        pooled_std=torch.arange(POOLED).float() + 1.0,
    )


def features(batch: int, seed: int = 1) -> Features:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)
    return Features(
        patch=torch.randn(batch, *GRID, PATCH, generator=generator) * 3 + 1,
        pooled=torch.randn(batch, POOLED, generator=generator) * 3 + 1,
    )


def images(count: int, seed: int = 2) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


class Encoder:
    """A semantic encoder that averages colours; it knows nothing, but left from right."""

    name = "tiny"
    patch_dim = 3
    pooled_dim = 6
    fingerprint = "0" * 64

    def __call__(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Features:
        patch = F.adaptive_avg_pool2d(pixels, grid).permute(0, 2, 3, 1)
        halves = F.adaptive_avg_pool2d(pixels, (1, 2)).flatten(1)
        return Features(patch=patch, pooled=halves)

    def shallow_features(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        return [pixels[:, :, ::2, ::2] + 0.1, F.avg_pool2d(pixels, 4) + 0.2]
