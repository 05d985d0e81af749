"""Folding changes where the normalisation lies and nothing else, at the borders and for alignment heads, too."""

from typing import Any

import pytest
import torch
from torch import nn

from reals.latents.align import AlignConfig
from reals.latents.fold import fold_heads, fold_normalisation
from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import AutoencoderKL, decode, posterior
from reals.runtime.errors import UserError
from tests.latents import tiny

MAPS = [
    LatentNormalisation(shift=0.4, scale=1.385),
    LatentNormalisation(shift=-3.0, scale=0.18215),
    LatentNormalisation(shift=0.7, scale=-2.0),
]


def autoencoder(normalisation: LatentNormalisation, quant: bool = True) -> AutoencoderKL:
    """A normalised autoencoder with random weights and biases everywhere, with or without 1x1 convolutions."""
    network: Any = tiny.autoencoder()
    if not quant:
        config = {name: value for name, value in network.config.items() if not name.startswith("_")}
        network = type(network).from_config({**config, "use_quant_conv": False, "use_post_quant_conv": False}).eval()
        assert network.quant_conv is network.post_quant_conv is None
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    normalisation.attach(network)
    return network


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
@pytest.mark.parametrize("quant", [True, False])
@pytest.mark.parametrize("normalisation", MAPS)
def test_folded_is_the_same_map(normalisation: LatentNormalisation, quant: bool) -> None:
    plain = autoencoder(normalisation, quant)
    folded = fold_normalisation(plain)
    assert LatentNormalisation.of(folded) == LatentNormalisation(shift=0.0, scale=1.0)
    # Flux and SD3 add the shift without asking whether there is one.
    assert folded.config["shift_factor"] == 0.0
    mean, log_variance = posterior(plain, pixels())
    folded_mean, folded_log_variance = posterior(folded, pixels())
    torch.testing.assert_close(folded_mean, normalisation.normalise(mean), rtol=1e-5, atol=1e-5)
    deviation, folded_deviation = torch.exp(0.5 * log_variance), torch.exp(0.5 * folded_log_variance)
    torch.testing.assert_close(folded_deviation, deviation * abs(normalisation.scale), rtol=1e-5, atol=1e-5)
    latents = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    expected = decode(plain, normalisation.denormalise(latents))
    # All positions, so the borders too: a shift in the padded 3x3 convolution would fail there.
    torch.testing.assert_close(decode(folded, latents), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_shift_in_the_padded_convolution_would_be_wrong_at_the_border_alone() -> None:
    """Why 1x1 convolutions are added where there are none."""
    network: Any = autoencoder(MAPS[0], quant=False)
    layer: nn.Conv2d = network.decoder.conv_in
    latents = torch.randn(1, tiny.CHANNELS, 6, 6, generator=torch.Generator().manual_seed(6))
    expected = layer(MAPS[0].denormalise(latents))
    assert layer.bias is not None
    layer.bias += layer.weight.sum(dim=(1, 2, 3)) * MAPS[0].shift
    layer.weight /= MAPS[0].scale
    difference = (layer(latents) - expected).abs().amax(dim=(0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-5
    assert difference[0].min() > 1e-3


def test_the_rest_of_the_network_is_untouched() -> None:
    plain = autoencoder(MAPS[0])
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    folded = fold_normalisation(plain)
    for name, tensor in before.items():
        assert torch.equal(plain.state_dict()[name], tensor)
        assert torch.equal(folded.state_dict()[name], tensor) == (not name.startswith(("quant_", "post_quant_"))), name
    changed = {name for name in folded.config if plain.config.get(name) != folded.config[name]}
    assert {name for name in changed if not name.startswith("_")} == {"scaling_factor", "shift_factor"}


@torch.no_grad()
def test_a_pipeline_that_multiplies_by_a_number_of_its_own() -> None:
    plain = autoencoder(MAPS[0])
    folded = fold_normalisation(plain, pipeline_factor=0.18215)
    assert LatentNormalisation.of(folded) == LatentNormalisation(shift=0.0, scale=0.18215)
    expected = MAPS[0].normalise(posterior(plain, pixels())[0])
    torch.testing.assert_close(posterior(folded, pixels())[0] * 0.18215, expected, rtol=1e-5, atol=1e-5)
    found = decode(folded, expected / 0.18215)
    torch.testing.assert_close(found, decode(plain, MAPS[0].denormalise(expected)), rtol=1e-5, atol=1e-5)


def test_nothing_to_fold() -> None:
    with pytest.raises(UserError, match="nothing to fold: its shift is 0 and its scale 1"):
        fold_normalisation(tiny.autoencoder())
    scaled = autoencoder(LatentNormalisation(shift=0.0, scale=0.18215))
    with pytest.raises(UserError, match=r"nothing to fold: its shift is 0 and its scale 0\.18215"):
        fold_normalisation(scaled, pipeline_factor=0.18215)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("normalisation", MAPS)
def test_folded_heads_predict_the_same_from_normalised_latents(normalisation: LatentNormalisation, depth: int) -> None:
    torch.manual_seed(0)
    heads = AlignConfig(depth=depth, hidden=6).build(tiny.CHANNELS, tiny.statistics())
    folded = fold_heads(heads, normalisation)
    raw = torch.randn(2, tiny.CHANNELS, 4, 5)
    expected, found = heads.predict(raw), folded.predict(normalisation.normalise(raw))
    torch.testing.assert_close(found.patch, expected.patch, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(folded.predict(raw).patch, expected.patch, atol=1e-3)


def test_a_head_alone_is_folded() -> None:
    heads = AlignConfig(pooled=0.0).build(tiny.CHANNELS, tiny.statistics())
    raw = torch.randn(1, tiny.CHANNELS, 2, 2)
    folded = fold_heads(heads, MAPS[1])
    torch.testing.assert_close(folded.patch(MAPS[1].normalise(raw)), heads.patch(raw), rtol=1e-4, atol=1e-4)
