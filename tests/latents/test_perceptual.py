"""The perceptual distance by hand, and on real networks."""

import pytest
import torch
from torch import Tensor

from reals.latents.perceptual import FeaturePerceptualLoss
from reals.models.semantic import EfficientNetLite0


class Given:
    """Gives two layers made from the pixels in ways whose distance is easy to know."""

    def shallow_features(self, pixels: Tensor) -> list[Tensor]:
        return [pixels[:, :2], pixels[:, :2, :1, :1].flip(1) * 5.0]


def test_distance_by_hand() -> None:
    """Unit vectors at 90 degrees are 2 apart (squared), at 0 degrees 0, whatever their length."""
    one = torch.zeros(1, 3, 1, 2)
    one[0, 0] = 3.0
    other = one.clone()
    other[0, :, 0, 1] = torch.tensor([0.0, 7.0, 0.0])
    # Layer 1: distances 0 and 2, mean 1. Layer 2 sees only the first position: 0. Their mean is 1/2.
    assert FeaturePerceptualLoss(Given())(one, other).item() == pytest.approx(0.5)


def test_same_images_are_at_no_distance_and_blur_is_at_some() -> None:
    distance = FeaturePerceptualLoss(EfficientNetLite0().build("cpu"))
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1)
    slightly = 0.9 * pixels + 0.1 * blurred
    assert distance(pixels, pixels).item() == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < distance(slightly, pixels).item() < distance(blurred, pixels).item() < 4.0


def test_gradient_reaches_the_reconstruction_only() -> None:
    distance = FeaturePerceptualLoss(EfficientNetLite0().build("cpu"))
    pixels = torch.randn(1, 3, 16, 16, requires_grad=True)
    reconstruction = torch.randn(1, 3, 16, 16, requires_grad=True)
    distance(reconstruction, pixels).backward()
    assert pixels.grad is None
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().max() > 0
