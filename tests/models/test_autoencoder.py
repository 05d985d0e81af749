"""The autoencoder against SD-VAE's published layout, plain diffusers, and every way in which loading can fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from reals.models.autoencoder import (
    AutoencoderConfig,
    decode,
    downsampling,
    latent_channels,
    load_autoencoder,
    posterior,
    save_autoencoder,
)
from reals.models.fingerprint import weights_fingerprint
from reals.runtime.errors import UserError

TINY = AutoencoderConfig(block_channels=(8, 16), layers_per_block=1, latent_channels=3, norm_groups=4)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_autoencoder(TINY.build(), tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


@pytest.mark.golden
def test_default_is_sd_vae_name_by_name(golden: Path) -> None:
    with torch.device("meta"):
        network = AutoencoderConfig().build()
    expected = json.loads((golden / "extras" / "sdvae_keys.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert (downsampling(network), latent_channels(network), AutoencoderConfig().downsampling) == (8, 4, 8)


def test_shapes_follow_the_configuration() -> None:
    network = TINY.build()
    mean, log_variance = posterior(network, torch.randn(2, 3, 16, 12))
    assert mean.shape == log_variance.shape == (2, 3, 8, 6)
    assert decode(network, mean).shape == (2, 3, 16, 12)
    assert downsampling(network) == TINY.downsampling == 2
    assert latent_channels(network) == 3


def test_mid_attention_can_be_left_out() -> None:
    without = AutoencoderConfig(block_channels=(8,), layers_per_block=1, norm_groups=4, mid_attention=False).build()
    assert not any("attentions" in name for name in without.state_dict())
    assert any("attentions" in name for name in TINY.build().state_dict())


def test_posterior_is_diffusers_own() -> None:
    torch.manual_seed(0)
    network = TINY.build()
    pixels = torch.randn(2, 3, 8, 8)
    (theirs,) = network.encode(pixels, return_dict=False)
    mean, log_variance = posterior(network, pixels)
    assert torch.equal(mean, theirs.mean)
    assert torch.equal(log_variance, theirs.logvar)


@pytest.mark.parametrize(("bias", "clamped"), [(1e4, 20.0), (-1e4, -30.0)])
def test_log_variance_is_clamped_as_diffusers_does(bias: float, clamped: float) -> None:
    network = TINY.build()
    assert isinstance(network.quant_conv, nn.Conv2d)
    assert network.quant_conv.bias is not None
    nn.init.constant_(network.quant_conv.bias, bias)
    _, log_variance = posterior(network, torch.zeros(1, 3, 4, 4))
    assert torch.all(log_variance == clamped)


def test_posterior_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, log_variance = posterior(TINY.build(), torch.randn(1, 3, 8, 8))
    assert mean.dtype == log_variance.dtype == torch.float32


def test_plain_diffusers_loads_what_is_saved_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TINY.build().eval()
    save_autoencoder(network, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", WEIGHTS}
    theirs = AutoencoderKL.from_pretrained(tmp_path / "out")
    ours = load_autoencoder(tmp_path / "out")
    pixels = torch.randn(2, 3, 8, 8)
    for loaded in (theirs, ours):
        assert not loaded.training
        assert weights_fingerprint(loaded) == weights_fingerprint(network)
        assert torch.equal(posterior(loaded, pixels)[0], posterior(network, pixels)[0])
        latent = torch.randn(1, 3, 4, 4)
        assert torch.equal(decode(loaded, latent), decode(network, latent))


def test_saving_replaces_and_adds_extras(saved: Path) -> None:
    before = weights_fingerprint(load_autoencoder(saved))
    save_autoencoder(TINY.build(), saved, extras=[lambda directory: (directory / "note.txt").write_text("x")])
    assert (saved / "note.txt").read_text() == "x"
    assert weights_fingerprint(load_autoencoder(saved)) != before


def test_a_failed_save_leaves_the_old_directory_alone(saved: Path) -> None:
    def fail(directory: Path) -> None:
        raise OSError("disk full")

    before = weights_fingerprint(load_autoencoder(saved))
    with pytest.raises(OSError, match="disk full"):
        save_autoencoder(TINY.build(), saved, extras=[fail])
    assert weights_fingerprint(load_autoencoder(saved)) == before
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_copy_trained_in_channels_last_saves(tmp_path: Path) -> None:
    network = TINY.build()
    nn.Module.to(network, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    save_autoencoder(network, tmp_path / "out")
    assert weights_fingerprint(load_autoencoder(tmp_path / "out")) == weights_fingerprint(network)


def test_older_attention_names_are_read(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in older.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    expected = weights_fingerprint(load_autoencoder(saved))
    save_file(renamed, saved / WEIGHTS)
    assert weights_fingerprint(load_autoencoder(saved)) == expected


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such directory; give the directory of"):
        load_autoencoder(tmp_path / "nowhere")


def test_a_file_is_not_a_directory(saved: Path) -> None:
    with pytest.raises(UserError, match="is a file; give the directory"):
        load_autoencoder(saved / WEIGHTS)


def test_unreachable_hub() -> None:
    with pytest.raises(
        UserError, match="owner/never-existed: no such directory here, and the Hugging Face hub"
    ) as caught:
        load_autoencoder("owner/never-existed")
    assert "give its directory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directory_without_a_configuration(saved: Path) -> None:
    (saved / "config.json").unlink()
    with pytest.raises(UserError, match="holds no readable AutoencoderKL"):
        load_autoencoder(saved)


def test_damaged_configuration(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(UserError, match="holds no readable AutoencoderKL"):
        load_autoencoder(saved)


def test_another_class_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="is a UNet2DModel, not an AutoencoderKL"):
        load_autoencoder(saved)


def test_missing_weights(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    with pytest.raises(UserError, match="holds no readable AutoencoderKL with safetensors weights") as caught:
        load_autoencoder(saved)
    assert "\n" not in str(caught.value)


def test_truncated_weights(saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="holds no readable AutoencoderKL with safetensors weights"):
        load_autoencoder(saved)


def test_weights_of_another_shape(saved: Path) -> None:
    other = AutoencoderConfig(block_channels=(8, 16), layers_per_block=1, latent_channels=5, norm_groups=4).build()
    save_autoencoder(other, saved.parent / "other")
    shutil.copy(saved.parent / "other" / WEIGHTS, saved / WEIGHTS)
    with pytest.raises(UserError, match="holds no readable"):
        load_autoencoder(saved)


def test_incomplete_weights_are_not_filled_with_noise(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors["encoder.conv_in.bias"]
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(UserError, match=r"its weights lack 'encoder\.conv_in\.bias' \(1 such"):
        load_autoencoder(saved)


def test_left_over_weights_are_an_error(saved: Path) -> None:
    save_file({**load_file(saved / WEIGHTS), "extra.weight": torch.zeros(1)}, saved / WEIGHTS)
    with pytest.raises(UserError, match=r"its weights have the unknown 'extra\.weight'"):
        load_autoencoder(saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_channels": ()}, "block_channels is empty"),
        ({"block_channels": (6,), "norm_groups": 4}, "6, which is no multiple of norm_groups 4"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"layers_per_block": 0}, "layers_per_block is 0"),
        ({"norm_groups": 0}, "norm_groups is 0"),
    ],
)
def test_configuration_is_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**arguments)


def test_fingerprint_sees_one_changed_weight() -> None:
    layer = nn.Linear(2, 2)
    before = weights_fingerprint(layer)
    assert weights_fingerprint(layer) == before
    with torch.no_grad():
        layer.weight[0, 0] += 1e-3
    assert weights_fingerprint(layer) != before
