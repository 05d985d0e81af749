"""How latents spread their energy over spatial frequencies.

Diffusion makes coarse structure first, and photos have falling spectra. Latents with much more energy at high
frequencies than photos are harder to generate (Skorokhodov et al., 2502.14831).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

HALF = 0.25
"""Cycles per cell: half of the highest frequency along an axis. Higher ones are the upper half."""


@dataclass(frozen=True, eq=False)
class RadialSpectrum:
    """Power of latents by radial frequency, averaged over channels; without frequency 0, the mean over positions."""

    frequencies: Float[np.ndarray, " k"]
    """Mean radial frequency of each ring, cycles per cell; up to 0.5 along an axis, √0.5 in the corners."""
    power: Float[np.ndarray, "n k"]
    """Mean power of the frequencies in each ring, for each image. White noise of variance 1 has power 1 everywhere."""
    high_share: Float[np.ndarray, " n"]
    """Share of each image's energy above :data:`HALF`."""


def radial_spectrum(latents: Float[np.ndarray, "n c h w"]) -> RadialSpectrum:
    """Return the spectrum of each image's latent.

    Raises:
        ValueError: a side has fewer than two cells, or an image's latent is constant.
    """
    rows, columns = latents.shape[2:]
    if min(rows, columns) < 2:
        raise ValueError(f"a spectrum needs at least 2 x 2 cells, found {rows} x {columns}")
    energy = np.square(np.abs(np.fft.fft2(latents.astype(np.float64)))).mean(axis=1).reshape(len(latents), -1)
    energy = energy / (rows * columns)
    radius, ring = _rings(rows, columns)
    inside = ring >= 0
    total = energy[:, inside].sum(axis=1)
    if (total == 0.0).any():
        raise ValueError("latents that do not vary over positions have no spectrum")
    numbers = np.unique(ring[inside])
    return RadialSpectrum(
        frequencies=np.array([radius[ring == number].mean() for number in numbers]),
        power=np.stack([energy[:, ring == number].mean(axis=1) for number in numbers], axis=1),
        high_share=energy[:, inside & (radius > HALF)].sum(axis=1) / total,
    )


def _rings(rows: int, columns: int) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return the radial frequency of every coefficient and its ring, one cycle per image wide; -1 for frequency 0."""
    vertical, horizontal = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :]
    radius = np.hypot(vertical, horizontal).reshape(-1)
    ring = np.rint(radius * min(rows, columns)).astype(np.int64)
    return radius, np.where(radius == 0.0, -1, ring)


def white_noise_share(rows: int, columns: int) -> float:
    """Return the share of energy above :data:`HALF` that white noise has on a grid: what to hold a share against."""
    radius, ring = _rings(rows, columns)
    return float((radius[ring >= 0] > HALF).mean())


def spectral_slope(spectrum: RadialSpectrum) -> float:
    """Return the slope of log power against log frequency, up to 0.5: 0 is white, photos have about -2.

    The least-squares line through the rings of the mean spectrum.

    Raises:
        ValueError: fewer than two rings.
    """
    used = spectrum.frequencies <= 0.5 + 1e-9
    if used.sum() < 2:
        raise ValueError("a slope needs at least two rings of frequencies; the grid is too small")
    power = spectrum.power[:, used].mean(axis=0)
    slope, _ = np.polyfit(np.log(spectrum.frequencies[used]), np.log(np.maximum(power, 1e-300)), 1)
    return float(slope)
