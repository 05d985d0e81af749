"""Fidelity of reconstructions, image by image: PSNR and SSIM, on the device where the images lie."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from reals.evaluation.float32 import float64_device

SSIM_WINDOW = 11
"""Width of the window in pixels; smaller images have no SSIM."""

_SIGMA = 1.5
# Constants of Wang et al. for pixels in [0, 1]: (k₁ · 1)² and (k₂ · 1)².
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2
# Fifteen planes of float64 to a pixel, some of them several times: a processor's cache, a fraction of a GPU's memory.
_PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**20}


@torch.no_grad()
def psnr(images: Float[Tensor, "b c h w"], reconstructions: Float[Tensor, "b c h w"]) -> Float[np.ndarray, " b"]:
    """Return each image's peak signal-to-noise ratio in dB, ``10 log10(2² / MSE)``, of pixels in [-1, 1].

    Reconstructions are clamped to the range first. A perfect reconstruction's ratio is infinite.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(
        reconstructions.float().clamp(-1.0, 1.0),
        images.float(),
        data_range=2.0,
        reduction="none",
        dim=(1, 2, 3),
    )
    return values.cpu().double().numpy()


@torch.no_grad()
def ssim(images: Float[Tensor, "b c h w"], reconstructions: Float[Tensor, "b c h w"]) -> Float[np.ndarray, " b"]:
    """Return each image's structural similarity (Wang et al., 2004) of pixels in [-1, 1].

    Gaussian window of 11 pixels and σ 1.5, k₁ 0.01, k₂ 0.03, borders reflected, averaged over channels, in float64.
    Pixels are clamped and moved to [0, 1] first: the luminance term compares means, which must not be negative.

    Raises:
        ValueError: an image is narrower than the window.
    """
    height, width = images.shape[2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM's window is {SSIM_WINDOW} pixels wide, the images are {width}x{height}")
    device = float64_device(images.device)
    at_once = max(1, _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE["cpu"]) // (height * width))
    pairs = zip(images.split(at_once), reconstructions.split(at_once), strict=True)
    return np.concatenate([_similarity(_unit(one, device), _unit(other, device)).cpu().numpy() for one, other in pairs])


def _unit(pixels: Float[Tensor, "b c h w"], device: torch.device) -> Float[Tensor, "b c h w"]:
    return pixels.to(device).double().clamp(-1.0, 1.0).add(1.0).mul(0.5)


def _similarity(one: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    moments = torch.cat([one, other, one * one, other * other, one * other], dim=1)
    mean, other_mean, square, other_square, product = _window_means(moments).chunk(5, dim=1)
    # Rounding may take a variance of nothing below zero.
    variance = (square - mean * mean).clamp_(min=0.0)
    other_variance = (other_square - other_mean * other_mean).clamp_(min=0.0)
    covariance = product - mean * other_mean
    luminance = (2 * mean * other_mean + _LUMINANCE) / (mean * mean + other_mean * other_mean + _LUMINANCE)
    structure = (2 * covariance + _CONTRAST) / (variance + other_variance + _CONTRAST)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _window_means(planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the Gaussian mean around each pixel: the window is a product, so one pass down and one across do."""
    half, channels = SSIM_WINDOW // 2, planes.shape[1]
    offsets = torch.arange(-half, half + 1, dtype=planes.dtype, device=planes.device)
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).expand(channels, 1, SSIM_WINDOW)
    padded = functional.pad(planes, (half, half, half, half), mode="reflect")
    down = functional.conv2d(padded, weights.unsqueeze(3), groups=channels)
    return functional.conv2d(down, weights.unsqueeze(2), groups=channels)
