import numpy as np
import pytest

from reals.latents.analysis.spectrum import radial_spectrum, spectral_slope, white_noise_share


def test_white_noise_is_flat() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 4, 8, 8))
    spectrum = radial_spectrum(noise)
    np.testing.assert_allclose(spectrum.power.mean(0), 1.0, atol=0.06)
    assert spectral_slope(spectrum) == pytest.approx(0, abs=0.05)
    assert spectrum.high_share.mean() == pytest.approx(white_noise_share(8, 8), abs=0.01)


@pytest.mark.parametrize(("cycles", "high"), [(1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)])
def test_a_wave_is_at_its_place(cycles: int, high: float) -> None:
    wave = np.cos(2 * np.pi * cycles * np.arange(8) / 8)
    latents = np.broadcast_to(5.0 + wave, (2, 3, 8, 8))
    spectrum = radial_spectrum(latents)
    share = spectrum.power[0] / spectrum.power[0].sum()
    assert share.argmax() == cycles - 1
    assert share.max() == pytest.approx(1.0)
    assert spectrum.high_share == pytest.approx(np.full(2, high), abs=1e-12)


def test_energy_is_the_variance_over_positions() -> None:
    latents = np.random.default_rng(1).normal(size=(3, 2, 6, 6))
    spectrum = radial_spectrum(latents)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(6), np.fft.fftfreq(6))).reshape(-1)
    counts = np.unique(np.rint(frequencies * 6), return_counts=True)[1][1:]
    total = (spectrum.power * counts).sum(1) / 36
    np.testing.assert_allclose(total, latents.var(axis=(2, 3)).mean(1))


def test_the_slope_of_a_power_law() -> None:
    rng = np.random.default_rng(2)
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :])
    radius[0, 0] = 1.0
    shaped = np.fft.ifft2(np.fft.fft2(rng.normal(size=(200, 1, 32, 32))) / radius).real
    assert spectral_slope(radial_spectrum(shaped)) == pytest.approx(-2, abs=0.1)


def test_the_share_of_white_noise_by_counting() -> None:
    # 4 x 4: frequencies 0, 1/4, 1/2, -1/4; of 15, only the four of radius 1/4 are not above 1/4.
    assert white_noise_share(4, 4) == pytest.approx(11 / 15)


def test_what_has_no_spectrum() -> None:
    with pytest.raises(ValueError, match="2 x 2"):
        radial_spectrum(np.ones((2, 3, 1, 1)))
    with pytest.raises(ValueError, match="do not vary"):
        radial_spectrum(np.ones((2, 3, 4, 4)))
