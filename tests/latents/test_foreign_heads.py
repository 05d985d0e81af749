"""Alignment heads of another trainer: recognised where names and shapes leave no doubt, else left alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reals.latents.align import AlignHeads
from reals.latents.foreign_heads import recognise_heads

CHANNELS = 3


def row(place: str, *widths: int, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Linear layers as ``nn.Sequential`` numbers them with an activation between, or with names of their own."""
    torch.manual_seed(len(place))
    layers: dict[str, Tensor] = {}
    for i in range(len(widths) - 1):
        linear, name = nn.Linear(widths[i], widths[i + 1]), names[i] if names else str(2 * i)
        layers |= {f"{place}.{name}.{kind}": tensor.detach() for kind, tensor in linear.named_parameters()}
    return layers


LOSS = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, CHANNELS, 4, 4)}


@pytest.mark.parametrize("names", [None, ("fc1", "fc2")])
@pytest.mark.parametrize("hidden", [6, 5])
def test_two_heads(names: tuple[str, ...] | None, hidden: int) -> None:
    patch, pooled = "model.align_patch_mlp", "model.align_cls_mlp"
    tensors = {
        **row(patch, CHANNELS, hidden, 5, names=names),
        **row(pooled, CHANNELS, hidden, 5, names=names),
        **LOSS,
    }
    heads, places = recognise_heads(tensors, CHANNELS)
    assert heads is not None
    assert places == (patch, pooled)
    latents = torch.randn(2, CHANNELS, 4, 4)
    first, second = names or ("0", "2")
    for place, x, found in (
        (patch, latents.permute(0, 2, 3, 1), heads.predict(latents).patch),
        (pooled, latents.mean(dim=(2, 3)), heads.predict(latents).pooled),
    ):
        h = F.gelu(F.linear(x, tensors[f"{place}.{first}.weight"], tensors[f"{place}.{first}.bias"]))
        expected = F.linear(h, tensors[f"{place}.{second}.weight"], tensors[f"{place}.{second}.bias"])
        torch.testing.assert_close(found, expected)


def test_one_head_alone_can_be_saved(tmp_path: Path) -> None:
    heads, places = recognise_heads(row("patch_head", CHANNELS, 4, 5), CHANNELS)
    assert heads is not None
    assert places == ("patch_head",)
    heads.save(tmp_path)
    latents = torch.randn(1, CHANNELS, 2, 2)
    assert torch.equal(AlignHeads.load(tmp_path).patch(latents), heads.patch(latents))


DOUBTFUL: dict[str, dict[str, Tensor]] = {
    "none": LOSS,
    "no word for a role": row("mlp", CHANNELS, 6, 5),
    "words for both": row("patch_and_cls", CHANNELS, 6, 5),
    "two of a kind": {**row("a.patch", CHANNELS, 6, 5), **row("b.patch", CHANNELS, 6, 5)},
    "other channels": row("patch", CHANNELS + 1, 6, 5),
    "layers side by side": row("patch", CHANNELS, 6, 5, names=("0", "1")),
    "widths that do not chain": {**row("patch", CHANNELS, 6), **row("patch", 4, 5, names=("2",))},
    "convolutions": {"patch.0.weight": torch.zeros(6, CHANNELS, 1, 1), "patch.0.bias": torch.zeros(6)},
    "no bias": {"patch.0.weight": torch.zeros(6, CHANNELS)},
    "different depths": {**row("patch", CHANNELS, 6, 5), **row("cls", CHANNELS, 5)},
    "different hidden widths": {**row("patch", CHANNELS, 6, 5), **row("cls", CHANNELS, 7, 5)},
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_in_doubt_nothing_is_guessed(case: str) -> None:
    assert recognise_heads(DOUBTFUL[case], CHANNELS) == (None, ())
