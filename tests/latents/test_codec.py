"""Pixels to normalised latents and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from reals.latents.codec import LatentCodec
from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import decode, posterior, save_autoencoder
from reals.runtime.errors import UserError
from reals.runtime.pixels import to_uint8
from tests.latents import tiny

NORMALISATION = LatentNormalisation(shift=0.25, scale=3.0)


@pytest.fixture
def codec() -> LatentCodec:
    return LatentCodec(tiny.autoencoder(), NORMALISATION)


def test_encode_is_a_normalised_posterior_sample(codec: LatentCodec) -> None:
    pixels = torch.randn(2, 3, tiny.SIZE, tiny.SIZE)
    latents = codec.encode(pixels, torch.Generator().manual_seed(4))
    mean, log_variance = posterior(codec.autoencoder, pixels)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(latents, (mean + torch.exp(0.5 * log_variance) * noise - 0.25) * 3.0)
    assert not latents.requires_grad


def test_decode_takes_normalised_latents(codec: LatentCodec) -> None:
    raw = torch.randn(2, tiny.CHANNELS, *tiny.GRID)
    pixels = codec.decode((raw - 0.25) * 3.0)
    torch.testing.assert_close(pixels, decode(codec.autoencoder, raw), atol=1e-5, rtol=1e-5)
    images = codec.decode_uint8((raw - 0.25) * 3.0)
    assert images.shape == (2, tiny.SIZE, tiny.SIZE, 3)
    assert np.array_equal(images, to_uint8(pixels))


def test_is_frozen_and_knows_its_sizes(codec: LatentCodec) -> None:
    assert not any(parameter.requires_grad for parameter in codec.autoencoder.parameters())
    assert (codec.downsampling, codec.latent_channels, codec.device.type) == (2, tiny.CHANNELS, "cpu")


def test_from_directory_equals_diffusers_convention(tmp_path: Path) -> None:
    network = tiny.autoencoder()
    NORMALISATION.attach(network)
    save_autoencoder(network, tmp_path / "out")
    codec = LatentCodec.from_directory(tmp_path / "out")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "out")
    latents = torch.randn(1, tiny.CHANNELS, *tiny.GRID)
    # As diffusers' Flux and SD3 pipelines decode.
    raw = latents / theirs.config["scaling_factor"] + theirs.config["shift_factor"]
    with torch.no_grad():
        expected = decode(theirs, raw)
    torch.testing.assert_close(codec.decode(latents), expected)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        LatentCodec.from_directory(tmp_path / "nowhere")
