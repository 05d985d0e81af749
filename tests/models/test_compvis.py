"""latent-diffusion's names and shapes: against SD-VAE's, and against a network that computes with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from reals.models.architecture import autoencoder_arguments, build_from_tensors
from reals.models.autoencoder import AutoencoderConfig, decode, posterior
from reals.models.compvis import from_compvis, is_compvis, to_compvis, to_current_names
from reals.runtime.errors import UserError
from tests.models import compvis

GROUPS = 4


def network(attention: bool = True, levels: bool = False, quant: bool = True) -> AutoencoderKL:
    """An autoencoder of three different widths, none of whose weights is zero or one."""
    torch.manual_seed(0)
    down, up = ["DownEncoderBlock2D"] * 3, ["UpDecoderBlock2D"] * 3
    if levels:
        down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    arguments: dict[str, Any] = {"down_block_types": down, "up_block_types": up, "block_out_channels": (8, 16, 12)}
    built = AutoencoderKL(
        **arguments,
        layers_per_block=2,
        latent_channels=3,
        norm_num_groups=GROUPS,
        mid_block_add_attention=attention,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        scaling_factor=1.0,
    )
    for parameter in built.parameters():
        nn.init.normal_(parameter, 0.0, 0.2)
    return built.eval()


def golden_tensors(golden: Path) -> dict[str, Tensor]:
    """SD-VAE's tensors by diffusers' names, each with its own numbers."""
    shapes = json.loads((golden / "extras" / "sdvae_keys.json").read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.golden
def test_sd_vaes_names_in_both_layouts(golden: Path) -> None:
    diffusers = golden_tensors(golden)
    theirs = to_compvis(diffusers)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert len(shapes) == len(diffusers) == 248
    # As in the checkpoints of stable diffusion.
    assert shapes["encoder.down.0.block.0.norm1.weight"] == (128,)
    assert shapes["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.2.downsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.mid.attn_1.q.weight"] == shapes["decoder.mid.attn_1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["encoder.mid.block_2.conv2.bias"] == shapes["encoder.mid.attn_1.norm.bias"] == (512,)
    assert shapes["encoder.norm_out.weight"] == (512,)
    assert shapes["decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert shapes["decoder.up.1.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert shapes["quant_conv.weight"] == (8, 8, 1, 1)
    assert not any("_block" in name and "block_" not in name for name in shapes)
    back = from_compvis({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in diffusers.items()}


@pytest.mark.golden
def test_sd_vaes_architecture_follows_from_its_shapes(golden: Path) -> None:
    arguments = autoencoder_arguments(golden_tensors(golden))
    with torch.device("meta"):
        expected = AutoencoderConfig().build().config
    assert {name: expected[name] for name in arguments} == arguments


@pytest.mark.parametrize("shape", [{}, {"attention": False}, {"levels": True}, {"quant": False}])
def test_there_and_back_to_the_bit(shape: dict[str, bool]) -> None:
    first = network(**shape)
    theirs = to_compvis(first.state_dict())
    assert is_compvis(theirs)
    assert not is_compvis(first.state_dict())
    second = build_from_tensors(from_compvis(theirs), GROUPS)
    read = autoencoder_arguments(first.state_dict(), GROUPS)
    for name, value in read.items():
        assert second.config[name] == value
        assert (list(value) if isinstance(value, tuple) else value) == (
            list(first.config[name]) if isinstance(value, tuple) else first.config[name]
        )
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    pixels = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(posterior(first, pixels)[0], posterior(second, pixels)[0])


@pytest.mark.parametrize("shape", [{}, {"levels": True}, {"quant": False, "attention": False}])
def test_the_renamed_weights_compute_what_latent_diffusion_computes(shape: dict[str, bool]) -> None:
    ours = network(**shape)
    theirs = to_compvis(ours.state_dict())
    pixels = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, _ = posterior(ours, pixels)
        moments = compvis.encode(theirs, pixels, GROUPS)
        torch.testing.assert_close(mean, moments.chunk(2, dim=1)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decode(ours, mean), compvis.decode(theirs, mean, GROUPS), rtol=1e-4, atol=1e-4)


def test_older_names_of_diffusers() -> None:
    tensors = network().state_dict()
    older = {}
    for name, tensor in tensors.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{old}.")
        older[name] = tensor
    assert set(older) != set(tensors)
    assert {n: t.shape for n, t in to_current_names(older).items()} == {n: t.shape for n, t in tensors.items()}


def test_a_foreign_name_is_an_error() -> None:
    with pytest.raises(UserError, match=r"'encoder\.layers\.0\.weight' is no tensor of a KL autoencoder"):
        from_compvis({"encoder.layers.0.weight": torch.zeros(1)})


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The weights with some replaced or, for None, left out; names have ``__`` for dots."""
    weights = dict(network().state_dict())
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    return weights


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"decoder__conv_out__bias": None}, r"lack 'decoder\.conv_out\.bias'"),
        ({"decoder__conv_in__weight": None}, r"lack 'decoder\.conv_in\.weight'"),
        ({"decoder__extra__bias": torch.zeros(1)}, r"have 'decoder\.extra\.bias', for which"),
        ({"encoder__conv_in__bias": torch.zeros(9)}, r"has the shape \(9,\), where the other tensors want \(8,\)"),
        ({"encoder__conv_out__weight": torch.zeros(3, 12, 3, 3)}, "no mean and log-variance"),
        ({"quant_conv__weight": torch.zeros(8, 6, 1, 1)}, r"'quant_conv\.weight' has 8 channels instead of 6"),
        ({"post_quant_conv__weight": torch.zeros(3, 4, 1, 1)}, "has 4 channels instead of 3"),
    ],
)
def test_weights_that_fit_no_autoencoder(tensors: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_from_tensors(changed(**tensors), GROUPS)


def test_groups_that_do_not_divide_the_widths() -> None:
    with pytest.raises(UserError, match=r"8 channels, no multiple of 32 groups; give --norm-groups"):
        build_from_tensors(network().state_dict())
