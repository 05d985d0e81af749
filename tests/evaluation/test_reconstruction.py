import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.image
from scipy.ndimage import gaussian_filter

from reals.evaluation import reconstruction
from reals.evaluation.paired import image_distances
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


@pytest.mark.parametrize("side", [11, 12, 31, 64])
@pytest.mark.parametrize("contrast", [0.0, 1e-3, 1.0])
def test_ssim_is_that_of_other_programs(side: int, contrast: float) -> None:
    generator = torch.Generator().manual_seed(side)
    images = 0.5 + contrast * (torch.rand(3, 3, side, side + 3, generator=generator) - 0.5)
    noisy = images + 0.2 * contrast * torch.randn(images.shape, generator=generator)
    one, other = (((pixels.double().clamp(-1, 1) + 1) / 2) for pixels in (noisy, images))
    theirs = torchmetrics.functional.image.structural_similarity_index_measure
    expected = theirs(one, other, data_range=1.0, reduction="none")
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_allclose(ssim(images, noisy), expected.flatten().numpy(), rtol=0, atol=1e-9)


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
    own = reconstruction._similarity

    def watch(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append(len(one))
        return own(one, other)

    monkeypatch.setattr(reconstruction, "_similarity", watch)
    monkeypatch.setitem(reconstruction._PIXELS_AT_ONCE, "cpu", 2 * 16 * 20 + 1)
    np.testing.assert_allclose(ssim(images, noisy), whole, rtol=1e-12)
    assert seen == [2, 2, 1]
    monkeypatch.setitem(reconstruction._PIXELS_AT_ONCE, "cpu", 1)
    np.testing.assert_allclose(ssim(images, noisy), whole, rtol=1e-12)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="8x16"):
        ssim(torch.zeros(1, 3, 16, 8), torch.zeros(1, 3, 16, 8))


class SeesPrecision:
    """A distance that notes what arithmetic it may use."""

    fingerprint = "0" * 64

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def distances(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        self.seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return (images - others).abs().mean(dim=(1, 2, 3))


def test_distances_of_images_are_computed_in_float32() -> None:
    network = SeesPrecision()
    torch.set_float32_matmul_precision("high")
    try:
        values = image_distances(network, torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert network.seen == [("highest", False)]
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, 1.0]
