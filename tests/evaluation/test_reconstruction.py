import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.image
from scipy.ndimage import gaussian_filter

from reals.evaluation import reconstruction
from reals.evaluation.reconstruction import psnr, ssim


def test_psnr_is_the_formula_of_each_image() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    shift = torch.tensor([0.01, 0.1, 0.2])[:, None, None, None]
    values = psnr(images, images + shift)
    np.testing.assert_allclose(values, [20 * math.log10(2 / s) for s in (0.01, 0.1, 0.2)], rtol=1e-5)


def test_psnr_clamps_reconstructions_and_is_infinite_for_perfect_ones() -> None:
    white = torch.ones(1, 3, 12, 12)
    assert psnr(white, white + 0.5)[0] == math.inf


def test_ssim_agrees_with_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 24, 24, generator=generator) * 2 - 1
    other = (image + 0.3 * torch.randn(1, 1, 24, 24, generator=generator)).clamp(-1, 1)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=5 / 1.5, mode="mirror")

    x, y = ((pixels[0, 0].double().numpy() + 1) / 2 for pixels in (image, other))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    assert ssim(image, other)[0] == pytest.approx(expected.mean(), abs=1e-6)


def test_ssim_of_batches_is_per_image() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = ssim(images, torch.stack([images[0], -images[1]]))
    assert values.shape == (2,)
    assert values[0] == pytest.approx(1.0, abs=1e-5)
    assert values[1] < 0
    assert ssim(images[:1], images[:1]).shape == (1,)


def test_ssim_takes_as_many_images_at_once_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 3, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noisy = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    whole = ssim(images, noisy)
    seen: list[int] = []
    own = torchmetrics.functional.image.structural_similarity_index_measure

    def watch(one: torch.Tensor, *others: torch.Tensor, **settings: object) -> object:
        seen.append(len(one))
        return own(one, *others, **settings)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(torchmetrics.functional.image, "structural_similarity_index_measure", watch)
    monkeypatch.setattr(reconstruction, "_PIXELS_AT_ONCE", 2 * 16 * 20 + 1)
    np.testing.assert_allclose(ssim(images, noisy), whole, rtol=1e-12)
    assert seen == [2, 2, 1]
    monkeypatch.setattr(reconstruction, "_PIXELS_AT_ONCE", 1)
    np.testing.assert_allclose(ssim(images, noisy), whole, rtol=1e-12)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="8x16"):
        ssim(torch.zeros(1, 3, 16, 8), torch.zeros(1, 3, 16, 8))
