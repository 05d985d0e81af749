"""DINOv2 against transformers itself, on tiny random networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
)

from reals.models.semantic import DinoV2
from reals.runtime.errors import UserError

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
}


@pytest.fixture(params=["plain", "registers"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    if request.param == "plain":
        network = Dinov2Model(Dinov2Config(**SHAPE))
    else:
        network = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=3))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def direct(directory: Path, images: torch.Tensor) -> torch.Tensor:
    """Tokens after the final layer normalisation, by transformers."""
    registers = "register" in json.loads((directory / "config.json").read_text())["model_type"]
    network = (Dinov2WithRegistersModel if registers else Dinov2Model).from_pretrained(directory).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return network((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).last_hidden_state


@pytest.mark.parametrize("grid", [(4, 4), (2, 3)])
def test_features_are_the_tokens(directory: Path, grid: tuple[int, int]) -> None:
    encoder = DinoV2(model=str(directory)).build("cpu")
    images = torch.rand(2, 3, grid[0] * 14, grid[1] * 14)
    features = encoder(images * 2 - 1, grid)
    tokens = direct(directory, images)
    count = grid[0] * grid[1]
    torch.testing.assert_close(features.pooled, tokens[:, 0], atol=1e-4, rtol=1e-4)
    # Whatever the number of registers, the patches come last, row by row.
    expected = tokens[:, -count:].reshape(2, *grid, 16)
    torch.testing.assert_close(features.patch, expected, atol=1e-4, rtol=1e-4)
    assert tokens.shape[1] - count == (4 if isinstance(encoder._network, Dinov2WithRegistersModel) else 1)


def test_sizes_and_freezing(directory: Path) -> None:
    encoder = DinoV2(model=str(directory)).build("cpu")
    assert (encoder.patch_dim, encoder.pooled_dim, encoder.patch_size) == (16, 16, 14)
    pixels = torch.randn(1, 3, 20, 20, requires_grad=True)
    features = encoder(pixels, (2, 2))
    assert features.patch.shape == (1, 2, 2, 16)
    assert not features.patch.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder._network.parameters())
    # The features must be usable in a loss that saves them for its backward pass.
    weight = torch.ones(16, requires_grad=True)
    (features.patch * weight).sum().backward()
    assert weight.grad is not None


def test_image_is_resized_with_antialiasing(directory: Path) -> None:
    encoder = DinoV2(model=str(directory)).build("cpu")
    large = torch.rand(1, 3, 112, 112)
    small = torch.nn.functional.interpolate(large, size=(28, 28), mode="bicubic", antialias=True).clamp(0, 1)
    expected = encoder(small * 2 - 1, (2, 2))
    torch.testing.assert_close(encoder(large * 2 - 1, (2, 2)).patch, expected.patch, atol=1e-4, rtol=1e-4)


def test_fingerprint_follows_the_weights(directory: Path) -> None:
    first = DinoV2(model=str(directory)).build("cpu").fingerprint
    assert DinoV2(model=str(directory)).build("cpu").fingerprint == first
    tensors = load_file(directory / "model.safetensors")
    tensors["layernorm.bias"] += 1.0
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert DinoV2(model=str(directory)).build("cpu").fingerprint != first


def test_default_is_the_papers_choice() -> None:
    assert DinoV2().model == "facebook/dinov2-with-registers-large"


def test_unreachable_hub_tells_how_to_go_on() -> None:
    with pytest.raises(
        UserError, match="facebook/never-existed: no such directory here, and the Hugging Face hub"
    ) as caught:
        DinoV2(model="facebook/never-existed").build("cpu")
    assert "give its directory instead" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        DinoV2(model=str(tmp_path / "nowhere")).build("cpu")


def test_wrong_kind_of_model(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a 'vit' model; give a DINOv2 model"):
        DinoV2(model=str(tmp_path)).build("cpu")


def test_missing_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no readable DINOv2 model with safetensors weights"):
        DinoV2(model=str(directory)).build("cpu")


def test_incomplete_weights(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["layernorm.bias"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack 'layernorm\.bias'"):
        DinoV2(model=str(directory)).build("cpu")


def test_features_may_enter_a_loss_and_be_computed_in_half_precision(directory: Path) -> None:
    exact, rounded = (DinoV2(model=str(directory)).build("cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact.fingerprint == rounded.fingerprint
    pixels = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weight = torch.ones((), requires_grad=True)
    features, coarse = exact(pixels, (4, 4)), rounded(pixels, (4, 4))
    assert not features.patch.is_inference()
    (features.patch * weight).square().mean().backward()
    assert weight.grad is not None
    for side in range(2):
        assert coarse[side].dtype == torch.float32
        assert torch.cosine_similarity(coarse[side], features[side], dim=-1).min() > 0.98
