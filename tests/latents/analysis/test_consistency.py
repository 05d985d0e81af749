import numpy as np
import pytest
import torch
from torch import Tensor

from reals.latents.analysis.augmentations import AllAugmentations, Crop, Flip
from reals.latents.analysis.consistency import position_share, semantic_consistency


def _images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def _encode(pixels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels, 4)


def test_identical_views_are_fully_consistent() -> None:
    result = semantic_consistency(_encode, _images(), Crop(minimum_area=1.0))
    np.testing.assert_allclose(result.raw, 1.0, atol=1e-6)
    np.testing.assert_allclose(result.centred, 1.0, atol=1e-6)
    assert result.centred_between.max() < 0.9


def test_a_latent_that_ignores_the_image_is_raw_consistent_only() -> None:
    template = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * 100

    result = semantic_consistency(lambda pixels: template + _encode(pixels)[:, :1], _images(), AllAugmentations())
    assert result.raw.min() > 0.99
    assert result.raw_between.min() > 0.99
    assert result.centred.mean() < 0.9
    assert abs(result.centred_between.mean()) < 0.3


def test_semantic_latents_are_consistent_within_and_not_between() -> None:
    # Mean colour per channel: cropping and mirroring leave it nearly as it is.
    images = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (30, 1, 1, 3)), (30, 16, 16, 3))
    result = semantic_consistency(lambda pixels: pixels.mean((2, 3), keepdim=True), images.astype(np.uint8), Flip())
    np.testing.assert_allclose(result.centred, 1.0, atol=1e-5)
    assert result.centred.mean() - result.centred_between.mean() > 0.7


def test_values_do_not_depend_on_batches_and_pair_the_next_image() -> None:
    images = _images(7)
    one = semantic_consistency(_encode, images, AllAugmentations(), batch_size=3)
    other = semantic_consistency(_encode, images, AllAugmentations(), batch_size=7)
    for name in ("raw", "raw_between", "centred", "centred_between"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
        assert getattr(one, name).shape == (7,)
    again = semantic_consistency(_encode, images, AllAugmentations(), seed=1)
    assert not np.allclose(one.raw, again.raw)


def test_between_is_the_similarity_to_the_next_image() -> None:
    images = _images(3)
    flipped = semantic_consistency(lambda pixels: pixels, images, Crop(minimum_area=1.0))
    pixels = images.astype(np.float64).transpose(0, 3, 1, 2).reshape(3, -1) / 127.5 - 1
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    np.testing.assert_allclose(flipped.raw_between, (unit * np.roll(unit, -1, axis=0)).sum(1), atol=1e-6)


def test_one_image_has_no_other() -> None:
    with pytest.raises(ValueError, match="two images"):
        semantic_consistency(_encode, _images(1), Flip())


def test_position_share_of_known_mixtures() -> None:
    rng = np.random.default_rng(0)
    template = rng.normal(size=(1, 4, 8, 8))
    template = (template - template.mean((2, 3), keepdims=True)) / template.std((2, 3), keepdims=True)
    noise = rng.normal(size=(400, 4, 8, 8))
    offset = np.array([10.0, -5.0, 0.0, 3.0])[None, :, None, None]
    assert position_share(offset + template + np.zeros((400, 1, 1, 1))) == pytest.approx(1.0)
    assert position_share(offset + noise) == pytest.approx(0.0, abs=0.01)
    assert position_share(offset + template + np.sqrt(3) * noise) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="do not vary"):
        position_share(np.ones((3, 1, 2, 2)))
