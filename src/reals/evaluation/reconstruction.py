"""Fidelity of reconstructions, image by image: PSNR and SSIM."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# A CPU's convolution by an 11 x 11 window unfolds each pixel, in float64, into kilobytes.
_PIXELS_AT_ONCE = 2**16


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
    return values.double().cpu().numpy()


@torch.no_grad()
def ssim(images: Float[Tensor, "b c h w"], reconstructions: Float[Tensor, "b c h w"]) -> Float[np.ndarray, " b"]:
    """Return each image's structural similarity (Wang et al., 2004) of pixels in [-1, 1].

    Gaussian window of 11 pixels and σ 1.5, k₁ 0.01, k₂ 0.03, borders reflected, averaged over channels. Pixels are
    clamped and moved to [0, 1] first: the luminance term compares means, which must not be negative.

    Raises:
        ValueError: an image is narrower than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(images.shape[2:]) < 11:
        raise ValueError(f"SSIM's window is 11 pixels wide, the images are {images.shape[3]}x{images.shape[2]}")
    at_once = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
    found = []
    for some, others in zip(images.split(at_once), reconstructions.split(at_once), strict=True):
        other, unit = (pixels.double().clamp(-1.0, 1.0).add(1.0).mul(0.5) for pixels in (others, some))
        values = structural_similarity_index_measure(other, unit, data_range=1.0, reduction="none")
        assert isinstance(values, Tensor)
        found.append(values.reshape(len(some)).cpu().numpy())
    return np.concatenate(found)
