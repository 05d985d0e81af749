"""The PatchGAN against the published layout: names, grid, patch size, initial weights, and foreign checkpoints."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reals.models.discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from reals.models.fingerprint import weights_fingerprint
from reals.runtime.errors import UserError
from reals.runtime.io import save_state, save_tensors

SMALL = PatchDiscriminatorConfig(width=4, layers=2)


def small(seed: int = 0) -> PatchDiscriminator:
    torch.manual_seed(seed)
    network = SMALL.build()
    network(torch.randn(2, 3, 16, 16))  # moves the running statistics away from their initial values
    return network


def test_names_and_shapes_are_latent_diffusions() -> None:
    with torch.device("meta"):
        state = PatchDiscriminatorConfig().build().state_dict()
    norms = {3: 128, 6: 256, 9: 512}
    expected = {
        "main.0.weight": (64, 3, 4, 4),
        "main.0.bias": (64,),
        "main.2.weight": (128, 64, 4, 4),
        "main.5.weight": (256, 128, 4, 4),
        "main.8.weight": (512, 256, 4, 4),
        "main.11.weight": (1, 512, 4, 4),
        "main.11.bias": (1,),
    }
    for index, width in norms.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"main.{index}.{name}"] = (width,)
        expected[f"main.{index}.num_batches_tracked"] = ()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_widths_stop_at_eight_times_the_first() -> None:
    network = PatchDiscriminatorConfig(width=2, layers=5).build()
    assert [layer.out_channels for layer in network.main if isinstance(layer, nn.Conv2d)] == [2, 4, 8, 16, 16, 16, 1]


@pytest.mark.parametrize(("side", "grid"), [(256, 30), (64, 6), (24, 1)])
def test_output_grid(side: int, grid: int) -> None:
    logits = PatchDiscriminatorConfig(width=4).build()(torch.zeros(2, 3, side, side))
    assert logits.shape == (2, 1, grid, grid)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_side_gives_one_logit_and_less_gives_none(layers: int) -> None:
    config = PatchDiscriminatorConfig(width=2, layers=layers)
    network, side = config.build().eval(), config.smallest_side
    assert network(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, side - 1, side - 1))


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_its_patch_and_no_more(layers: int, patch: int) -> None:
    """Isola et al., appendix 6.1.2: 70 pixels for three layers, 16 for one."""
    torch.manual_seed(0)
    network = PatchDiscriminatorConfig(width=4, layers=layers).build().double().eval()
    pixels = torch.randn(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = network(pixels)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], pixels)
    seen = gradient[0].abs().amax(dim=0) > 0
    for direction in (0, 1):
        assert seen.any(dim=direction).sum() == patch
    assert seen.sum() == patch**2


def test_one_logit_by_hand() -> None:
    """Kernels of ones, one layer, no normalisation to speak of: strides, padding and slope are what is left."""
    network = PatchDiscriminatorConfig(width=1, layers=1).build().eval()
    for layer in network.main:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    # At stride 2 the kernel meets 3, 4 and 3 of the 6 pixels along a side, padded by 1: 10² products in 3 channels.
    first = 0.2 * -3.0 * 10.0**2
    # At stride 1 both kernels along a side meet all 3 cells, and the last kernel meets both, in two channels.
    assert network(-torch.ones(1, 3, 6, 6)).item() == pytest.approx(2 * 2**2 * 0.2 * first, rel=1e-4)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminatorConfig().build()
    gains = []
    for layer in network.main:
        if isinstance(layer, nn.Conv2d):
            error = 0.02 / layer.weight.numel() ** 0.5
            assert abs(layer.weight.mean().item()) < 4 * error
            assert layer.weight.std().item() == pytest.approx(0.02, abs=4 * error)
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            gains.append(layer.weight)
            assert not layer.bias.any()
    gain = torch.cat(gains)
    assert gain.mean().item() == pytest.approx(1.0, abs=4 * 0.02 / gain.numel() ** 0.5)
    assert gain.std().item() == pytest.approx(0.02, rel=0.15)
    assert network.training


def lightning(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of a whole autoencoder holds beside its discriminator."""
    others = {"encoder.conv_in.weight": torch.zeros(3), "loss.logvar": torch.zeros(())}
    return others | {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "discriminator.", "loss.discriminator."])
@pytest.mark.parametrize("kind", ["net.safetensors", "net.pt", "lightning.ckpt"])
def test_pretrained_weights(tmp_path: Path, prefix: str, kind: str) -> None:
    trained = small()
    state, path = lightning(prefix, trained), tmp_path / kind
    if kind == "net.safetensors":
        save_tensors(path, state)
    else:
        save_state(path, state if kind == "net.pt" else {"state_dict": state, "global_step": 7})
    loaded = PatchDiscriminatorConfig(width=4, layers=2, weights=str(path)).build()
    assert weights_fingerprint(loaded) == weights_fingerprint(trained)
    assert weights_fingerprint(small(seed=1)) != weights_fingerprint(trained)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("width", "layers", "message"),
    [
        (8, 2, r"'main\.0\.weight' is \[4, 3, 4, 4\] instead of \[8, 3, 4, 4\]"),
        (4, 3, r"'main\.8\.weight' is \[1, 16, 4, 4\] instead of \[32, 16, 4, 4\]"),
        (4, 1, r"'main\.5\.weight' is \[16, 8, 4, 4\] instead of \[1, 8, 4, 4\]"),
    ],
)
def test_weights_of_another_shape(tmp_path: Path, width: int, layers: int, message: str) -> None:
    path = tmp_path / "net.safetensors"
    save_tensors(path, small().state_dict())
    with pytest.raises(UserError, match=message) as caught:
        PatchDiscriminatorConfig(width=width, layers=layers, weights=str(path)).build()
    assert "PatchGAN of this width and number of layers" in str(caught.value)


def test_weights_of_something_else_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    save_tensors(path, {"encoder.conv_in.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"vae\.safetensors: holds no PatchGAN, .*give a discriminator's") as caught:
        PatchDiscriminatorConfig(weights=str(path)).build()
    assert "\n" not in str(caught.value)


def test_incomplete_and_left_over_weights(tmp_path: Path) -> None:
    path, state = tmp_path / "net.safetensors", small().state_dict()
    save_tensors(path, state | {"main.2.bias": torch.zeros(8)})
    config = PatchDiscriminatorConfig(width=4, layers=2, weights=str(path))
    with pytest.raises(UserError, match=r"has the unknown 'main\.2\.bias'"):
        config.build()
    del state["main.3.running_var"]
    save_tensors(path, state)
    with pytest.raises(UserError, match=r"has no tensor 'main\.3\.running_var'"):
        config.build()


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="width is 0; it must be at least 1"):
        PatchDiscriminatorConfig(width=0)
    with pytest.raises(ValueError, match="layers is 0; it must be at least 1"):
        PatchDiscriminatorConfig(layers=0)
