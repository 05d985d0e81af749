"""LPIPS against its formula written out, torchmetrics' own, finite differences, and every file that is not it.

The trunk here is a VGG16 with random weights: everything but the numbers of the published distance is the same.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reals.latents.perceptual import PerceptualLoss
from reals.models.lpips import HEADS_SHA256, VGG16_SHA256, VGG16_URL, Lpips, LpipsDistance, LpipsNetwork
from reals.runtime.errors import UserError
from reals.runtime.io import load_state, save_state, save_tensors, sha256_file

# Of torchvision's vgg16().features: index and output channels of each convolution; "M" where it pools.
CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
CONVOLUTIONS |= {17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
POOLINGS = (4, 9, 16, 23)
COMPARED = (3, 8, 15, 22, 29)


def random_trunk() -> dict[str, Tensor]:
    """Weights that keep the features' scale from layer to layer, and one tensor that LPIPS does not use."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.0.weight": torch.zeros(1)}
    channels = 3
    for index, width in CONVOLUTIONS.items():
        weight = torch.randn(width, channels, 3, 3, generator=generator)
        state[f"features.{index}.weight"] = weight * (2 / (9 * channels)) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(width, generator=generator) * 0.1
        channels = width
    return state


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    save_state(path, random_trunk())
    return path


@pytest.fixture(scope="module")
def distance(trunk: Path) -> LpipsDistance:
    return Lpips(trunk=str(trunk), trunk_sha256=None).build("cpu")


def shipped_heads() -> Path:
    import torchmetrics

    return Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


def images(count: int, side: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def written_out(first: Tensor, second: Tensor) -> Tensor:
    """Equation 1 of the paper, position by position of nothing but conv2d, in float64."""
    weights = {name: tensor.double() for name, tensor in random_trunk().items()}
    heads = load_state(shipped_heads())
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def layers(pixels: Tensor) -> list[Tensor]:
        hidden = ((pixels.permute(0, 2, 3, 1) - shift) / scale).permute(0, 3, 1, 2).double()
        compared = []
        for index in range(30):
            if index in CONVOLUTIONS:
                weight, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
                hidden = F.conv2d(hidden, weight, bias, padding=1)
            else:
                hidden = F.max_pool2d(hidden, 2) if index in POOLINGS else hidden.clamp(min=0)
            if index in COMPARED:
                compared.append(hidden)
        return compared

    total = torch.zeros(len(first), dtype=torch.float64)
    for number, (one, other) in enumerate(zip(layers(first), layers(second), strict=True)):
        unit_one = one / (one.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
        unit_other = other / (other.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
        head = heads[f"lin{number}.model.1.weight"].double()
        total += F.conv2d((unit_one - unit_other) ** 2, head).mean(dim=(1, 2, 3))
    return total


def test_equals_the_formula_written_out(distance: LpipsDistance) -> None:
    first, second = images(2, 32), images(2, 32, seed=2)
    second[0] = 0.9 * first[0]
    expected = written_out(first, second)
    assert expected.min() * 3 < expected.max()
    found = distance.distances(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(distance(first, second).double(), expected.mean(), rtol=1e-4, atol=0)


def test_equals_torchmetrics_with_the_same_trunk(distance: LpipsDistance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums and heads are not ours; its trunk would be torchvision's, whose layers are put together here."""
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity, lpips

    layers: list[nn.Module] = []
    channels = 3
    for index in range(30):
        if index in CONVOLUTIONS:
            layers.append(nn.Conv2d(channels, CONVOLUTIONS[index], 3, padding=1))
            channels = CONVOLUTIONS[index]
        else:
            layers.append(nn.MaxPool2d(2) if index in POOLINGS else nn.ReLU())
    theirs = nn.Sequential(*layers)
    prefix = "features."
    theirs.load_state_dict({name[len(prefix) :]: t for name, t in random_trunk().items() if name.startswith(prefix)})
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_: theirs)
    first, second = images(2, 32), images(2, 32, seed=2)
    expected = learned_perceptual_image_patch_similarity(first, second, net_type="vgg", reduction="none")
    torch.testing.assert_close(distance.distances(first, second), expected, rtol=1e-4, atol=0)


def test_symmetric_and_zero_for_the_same_image(distance: LpipsDistance) -> None:
    first, second = images(2, 32), images(2, 32, seed=2)
    forth, back = distance.distances(first, second), distance.distances(second, first)
    assert torch.equal(forth, back)
    assert forth.min() > 0
    assert torch.equal(distance.distances(first, first), torch.zeros(2))


def test_images_of_a_batch_do_not_mix(distance: LpipsDistance) -> None:
    first, second = images(3, 32), images(3, 32, seed=2)
    one_by_one = torch.cat([distance.distances(a[None], b[None]) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(distance.distances(first, second), one_by_one)


def test_gradient_reaches_the_reconstruction_only(distance: LpipsDistance) -> None:
    reconstruction, pixels = images(2, 32).requires_grad_(), images(2, 32, seed=2).requires_grad_()
    distance(reconstruction, pixels).backward()
    assert pixels.grad is None
    assert reconstruction.grad is not None
    assert torch.all(reconstruction.grad.abs().amax(dim=(1, 2, 3)) > 0)
    assert all(not weight.requires_grad and weight.grad is None for weight in distance._network.parameters())
    assert not distance.distances(reconstruction, pixels).requires_grad


def test_gradient_is_the_slope(trunk: Path) -> None:
    """Central differences along random directions, in float64."""
    distance = Lpips(trunk=str(trunk), trunk_sha256=None).build("cpu")
    distance._network.double()
    pixels = images(1, 16).double()
    reconstruction = (pixels + 0.3 * images(1, 16, seed=2).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(reconstruction, pixels), reconstruction)
    with torch.no_grad():
        for seed in (3, 4, 5):
            step = 1e-6 * images(1, 16, seed=seed).double()
            rise = distance(reconstruction + step, pixels) - distance(reconstruction - step, pixels)
            assert rise.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=1e-4)


def test_gradient_is_finite_where_no_feature_fires(distance: LpipsDistance) -> None:
    """A root of a sum of squares would give 0 times infinity there."""
    others = distance._network(images(1, 16))
    layers = [torch.zeros_like(layer).requires_grad_() for layer in others]
    distance._network.compare(layers, others).sum().backward()
    for layer in layers:
        assert layer.grad is not None
        assert layer.grad.isfinite().all()


def test_autocast_reaches_the_convolutions_but_not_the_sums(distance: LpipsDistance) -> None:
    first = images(2, 32)
    second = first + 0.05 * images(2, 32, seed=2)
    exact = distance.distances(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers, others = distance._network(first), distance._network(second)
        rounded = distance.distances(first, second)
        loss = distance(first.bfloat16(), second)
    assert all(layer.dtype == torch.bfloat16 for layer in layers)
    assert rounded.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0)
    sums = distance._network.compare([layer.float() for layer in layers], [layer.float() for layer in others])
    assert torch.equal(rounded, sums)


def test_serves_as_the_objectives_perceptual_loss(distance: LpipsDistance) -> None:
    assert isinstance(distance, PerceptualLoss)
    assert not isinstance(distance, nn.Module)


def test_layers_are_vgg16s_at_torchvisions_indices(distance: LpipsDistance) -> None:
    layers = distance._network(images(1, 48))
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (64, 48, 48),
        (128, 24, 24),
        (256, 12, 12),
        (512, 6, 6),
        (512, 3, 3),
    ]
    assert distance._network.taps == COMPARED
    assert all(layer.min() == 0 for layer in layers)


def test_small_images_are_refused(distance: LpipsDistance) -> None:
    with pytest.raises(ValueError, match="at least 16 pixels, not 20x15"):
        distance.distances(torch.zeros(1, 3, 15, 20), torch.zeros(1, 3, 15, 20))


def test_default_heads_are_version_0_1(distance: LpipsDistance) -> None:
    """torchmetrics' copy of the published file; a release that changed it would change the distance."""
    assert sha256_file(shipped_heads()) == HEADS_SHA256 == Lpips().heads_sha256
    published = load_state(shipped_heads())
    for number, head in enumerate(distance._network.heads):
        assert torch.equal(head, published[f"lin{number}.model.1.weight"])
        assert head.min() >= 0, "a distance must not be negative"


def test_default_trunk_is_checked_by_the_hash_in_its_name() -> None:
    assert (Lpips().trunk, Lpips().trunk_sha256) == (VGG16_URL, VGG16_SHA256)
    assert len(VGG16_SHA256) == 64
    assert VGG16_URL.endswith(f"vgg16-{VGG16_SHA256[:8]}.pth")


def test_another_trunk_is_refused_unless_asked_for(trunk: Path) -> None:
    with pytest.raises(UserError, match=f"has the SHA-256 {sha256_file(trunk)} instead of {VGG16_SHA256}"):
        Lpips(trunk=str(trunk)).build("cpu")


def test_an_absent_trunk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file") as caught:
        Lpips(trunk=str(tmp_path / "vgg16-397923af.pth")).build("cpu")
    assert "\n" not in str(caught.value)


def test_heads_from_another_place(trunk: Path, tmp_path: Path, distance: LpipsDistance) -> None:
    heads = {name: tensor * 2 for name, tensor in load_state(shipped_heads()).items()}
    save_tensors(tmp_path / "heads.safetensors", heads)
    other = Lpips(
        trunk=str(trunk), trunk_sha256=None, heads=str(tmp_path / "heads.safetensors"), heads_sha256=None
    ).build("cpu")
    first, second = images(1, 16), images(1, 16, seed=2)
    torch.testing.assert_close(other.distances(first, second), 2 * distance.distances(first, second))
    assert other.fingerprint != distance.fingerprint
    assert len(distance.fingerprint) == 64


def test_weights_that_lack_tensors_are_named() -> None:
    state, heads = random_trunk(), load_state(shipped_heads())
    with pytest.raises(UserError, match=r"heads\.pth: has no tensor 'lin0\.model\.1\.weight'; .* VGG16 LPIPS"):
        LpipsNetwork(state, {}, "trunk.pth", "heads.pth")
    with pytest.raises(UserError, match=r"'lin4\.model\.1\.weight' is \[1, 9, 1, 1\] instead of \[1, 512, 1, 1\]"):
        LpipsNetwork(state, heads | {"lin4.model.1.weight": torch.zeros(1, 9, 1, 1)}, "trunk.pth", "heads.pth")
    del state["features.28.bias"]
    with pytest.raises(UserError, match=r"trunk\.pth: has no tensor 'features\.28\.bias'; .* torchvision VGG16"):
        LpipsNetwork(state, heads, "trunk.pth", "heads.pth")


def test_without_torchmetrics_the_heads_must_be_given(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reals.models import lpips

    monkeypatch.setattr(lpips, "find_spec", lambda name: SimpleNamespace(origin=None) if name else None)
    with pytest.raises(UserError, match="torchmetrics, which is not installed; install it, or give their file"):
        Lpips(trunk=str(trunk), trunk_sha256=None).build("cpu")
