"""The layout of a training step on a CPU changes its speed, not its values."""

import copy

import pytest
import torch
from torch import nn

from reals.models.autoencoder import AutoencoderConfig, decode, posterior
from reals.models.memory_layout import PlainLayoutGroupNorm, arrange_for_training


def _network() -> nn.Module:
    torch.manual_seed(0)
    return AutoencoderConfig(block_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_groups=4).build()


def _gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, _ = posterior(network, pixels)  # pyright: ignore[reportArgumentType]
    decode(network, mean).square().mean().backward()  # pyright: ignore[reportArgumentType]
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def test_arranged_network_has_the_same_gradients_and_state() -> None:
    plain = _network()
    arranged = copy.deepcopy(plain)
    arrange_for_training(arranged, torch.device("cpu"))
    assert any(isinstance(module, PlainLayoutGroupNorm) for module in arranged.modules())
    assert not any(type(module) is nn.GroupNorm for module in arranged.modules())
    assert plain.state_dict().keys() == arranged.state_dict().keys()
    wanted, found = _gradients(plain), _gradients(arranged)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_network_on_another_device_is_left_alone() -> None:
    network = _network()
    arrange_for_training(network, torch.device("meta"))
    assert not any(isinstance(module, PlainLayoutGroupNorm) for module in network.modules())


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 8, 5)])
def test_norm_gives_what_torch_gives(shape: tuple[int, ...]) -> None:
    norm = nn.GroupNorm(4, 8, eps=1e-3)
    nn.init.normal_(norm.weight)
    values = torch.randn(shape)
    torch.testing.assert_close(PlainLayoutGroupNorm.of(norm)(values), norm(values))
