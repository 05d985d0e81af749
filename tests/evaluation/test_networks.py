import numpy as np
import pytest
import torch

from reals.evaluation.networks import FeatureNetwork, LiteFeatures, extract, lite_features
from reals.models.semantic import EfficientNetLite0, Features


class MeanColour:
    """A feature network of three dimensions."""

    name = "mean"
    dimension = 3
    fingerprint = "0" * 64
    resize = "none"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean(axis=(1, 2)).astype(np.float32)


def _images(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_extraction_does_not_depend_on_batches_or_blocks() -> None:
    images = _images(11)
    network = MeanColour()
    assert isinstance(network, FeatureNetwork)
    whole = extract(network, images)
    assert np.array_equal(whole, images.mean(axis=(1, 2)).astype(np.float32))
    assert np.array_equal(whole, extract(network, images, batch_size=4))
    assert np.array_equal(whole, extract(network, [images[:3], images[3:]], total=11, batch_size=2))


def test_extraction_checks_the_number_of_images() -> None:
    network, images = MeanColour(), _images(5)
    with pytest.raises(ValueError, match="at least one image"):
        extract(network, images[:0])
    with pytest.raises(ValueError, match="at least one image"):
        extract(network, [images])
    with pytest.raises(ValueError, match="5 images instead of the announced 6"):
        extract(network, [images], total=6)
    with pytest.raises(ValueError, match="more than the announced 4"):
        extract(network, [images], total=4)


def test_lite_features_are_the_pooled_map_and_tell_images_apart() -> None:
    network = lite_features(32)
    assert isinstance(network, FeatureNetwork)
    assert (network.name, network.dimension, network.resize[:7]) == ("efficientnet-lite0", 320, "128x128")
    images = _images(3, 32)
    images[1] = images[0]
    features = network(images)
    assert features.shape == (3, 320)
    np.testing.assert_allclose(features[0], features[1], rtol=1e-3, atol=1e-4)
    assert np.abs(features[0] - features[2]).max() > 1e-2


def test_large_images_are_shown_at_the_size_of_training() -> None:
    assert lite_features(256).resize.startswith("224x224")


def test_side_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="multiple of 32, not 100"):
        LiteFeatures(EfficientNetLite0(stride=32).build("cpu"), 100)


class SeesPrecision:
    """An encoder that notes what arithmetic it may use."""

    patch_dim = 5
    fingerprint = "0" * 64

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def __call__(self, pixels: torch.Tensor, grid: tuple[int, int]) -> Features:
        self.seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return Features(torch.zeros(len(pixels), *grid, 5), torch.zeros(len(pixels), 5))


def test_lite_features_are_computed_in_float32_as_the_protocol_says() -> None:
    encoder = SeesPrecision()
    torch.set_float32_matmul_precision("high")
    try:
        LiteFeatures(encoder, 32)(_images(2, 32))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert encoder.seen == [("highest", False)]
