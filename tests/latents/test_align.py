"""Heads and alignment loss (ReaLS, Eq. 1 and 2) against numbers worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reals.latents.align import AlignConfig, AlignHeads, align_loss
from reals.latents.features import FeatureStatistics
from reals.models.semantic import Features
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json
from tests.latents import tiny


def heads(**changes: object) -> AlignHeads:
    torch.manual_seed(0)
    return AlignConfig(**changes).build(tiny.CHANNELS, tiny.statistics())  # pyright: ignore[reportArgumentType]


def linear_head(head: nn.Sequential | None) -> nn.Linear:
    assert head is not None
    layer = head[0]
    assert isinstance(layer, nn.Linear)
    return layer


def test_loss_by_hand() -> None:
    """One cell, two channels: prediction (3, 4), standardised target (4, 3): cosine 24/25, smooth L1 1 - 1/2."""
    unit = FeatureStatistics(
        patch_mean=torch.tensor([1.0, 1.0]),
        patch_std=torch.tensor([2.0, 1.0]),
        pooled_mean=torch.zeros(2),
        pooled_std=torch.ones(2),
    )
    small = AlignConfig(depth=1).build(2, unit)
    for head in (small.patch_head, small.pooled_head):
        layer = linear_head(head)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    latent = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    features = Features(patch=torch.tensor([9.0, 4.0]).reshape(1, 1, 1, 2), pooled=torch.tensor([[3.0, 3.5]]))
    losses = align_loss(small, latent, features)
    assert losses["patch_cosine"].item() == pytest.approx(24 / 25)
    assert losses["align_patch"].item() == pytest.approx(0.9 * (1 / 25) + 0.1 * 0.5)
    cosine = (9 + 14) / (5 * math.hypot(3, 3.5))
    # Smooth L1 is quadratic below 1: elements 0 and 0.5² / 2.
    assert losses["pooled_cosine"].item() == pytest.approx(cosine)
    assert losses["align_pooled"].item() == pytest.approx(0.9 * (1 - cosine) + 0.1 * 0.125 / 2)
    assert losses["align"].item() == pytest.approx(losses["align_patch"].item() + losses["align_pooled"].item())


def test_head_weights_multiply_their_terms() -> None:
    latent, features = torch.randn(2, tiny.CHANNELS, *tiny.GRID), tiny.features(2)
    plain = align_loss(heads(), latent, features)
    weighted = align_loss(heads(patch=3.0, pooled=0.5), latent, features)
    expected = 3.0 * plain["align_patch"] + 0.5 * plain["align_pooled"]
    torch.testing.assert_close(weighted["align"], expected)
    # λ_a belongs to the whole objective, not here.
    assert align_loss(heads(weight=7.0), latent, features)["align"] == plain["align"]


def test_each_cell_meets_the_feature_of_its_own_cell() -> None:
    """A latent that is the standardised feature, on a grid of unequal sides, is predicted by the identity."""
    same = FeatureStatistics(torch.zeros(3), torch.ones(3), torch.zeros(3), torch.ones(3))
    identity = AlignConfig(depth=1).build(3, same)
    for head in (identity.patch_head, identity.pooled_head):
        nn.init.eye_(linear_head(head).weight)
        nn.init.zeros_(linear_head(head).bias)
    patch = torch.randn(2, 3, 4, 3)
    latent = patch.permute(0, 3, 1, 2)
    losses = align_loss(identity, latent, Features(patch=patch, pooled=patch.mean(dim=(1, 2))))
    assert losses["align"].item() == pytest.approx(0.0, abs=1e-5)
    moved = align_loss(identity, latent, Features(patch=patch.roll(1, dims=2), pooled=patch.mean(dim=(1, 2))))
    assert moved["align_patch"].item() > 0.1


def test_predictions_are_in_the_encoders_units() -> None:
    trained = heads()
    latent = torch.randn(2, tiny.CHANNELS, *tiny.GRID)
    predicted = trained.predict(latent)
    again = trained.standardise(predicted)
    torch.testing.assert_close(again.patch, trained.patch(latent), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.pooled, trained.pooled(latent), atol=1e-5, rtol=1e-5)
    assert align_loss(trained, latent, predicted)["align"].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("depth", "layers"), [(1, 1), (2, 2), (4, 4)])
def test_depth_counts_linear_layers(depth: int, layers: int) -> None:
    patch = heads(depth=depth).patch_head
    assert patch is not None
    linear = [layer for layer in patch if isinstance(layer, nn.Linear)]
    assert len(linear) == layers
    assert [type(layer) for layer in patch][1::2] == [nn.GELU] * (layers - 1)
    assert linear[0].in_features == tiny.CHANNELS
    assert linear[-1].out_features == tiny.PATCH


def test_hidden_width() -> None:
    assert linear_head(heads().patch_head).out_features == tiny.PATCH
    assert linear_head(heads().pooled_head).out_features == tiny.POOLED
    assert linear_head(heads(hidden=11).patch_head).out_features == 11


def test_without_standardisation_targets_are_raw() -> None:
    raw = tiny.features(1)
    assert torch.equal(heads(standardise=False).standardise(raw).patch, raw.patch)
    assert not torch.equal(heads().standardise(raw).patch, raw.patch)


@pytest.mark.parametrize(("name", "other"), [("patch", "pooled"), ("pooled", "patch")])
def test_a_head_of_weight_zero_does_not_exist(name: str, other: str) -> None:
    one = heads(**{name: 0.0})
    latent, features = torch.randn(1, tiny.CHANNELS, *tiny.GRID), tiny.features(1)
    losses = align_loss(one, latent, features)
    assert set(losses) == {"align", f"align_{other}", f"{other}_cosine"}
    assert not any(key.startswith(f"{name}_head") for key in one.state_dict())
    with pytest.raises(UserError, match=f"have no {name} head"):
        one.predict(latent)


def test_wrong_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid \(4, 4\), latents \(2, 4\)"):
        align_loss(heads(), torch.randn(1, tiny.CHANNELS, 2, 4), tiny.features(1))


def test_loss_is_float32_under_autocast() -> None:
    latent, features = torch.randn(2, tiny.CHANNELS, *tiny.GRID), tiny.features(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = align_loss(heads(), latent, features)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    exact = align_loss(heads(), latent, features)
    torch.testing.assert_close(losses["align"], exact["align"], atol=0.02, rtol=0.02)


def test_save_and_load(tmp_path: Path) -> None:
    original = heads(depth=4, hidden=9, pooled=0.25)
    original.save(tmp_path)
    loaded = AlignHeads.load(tmp_path)
    assert loaded.config == original.config
    latent = torch.randn(1, tiny.CHANNELS, *tiny.GRID)
    for ours, theirs in zip(original.predict(latent), loaded.predict(latent), strict=True):
        assert torch.equal(ours, theirs)


def test_heads_without_standardisation_survive_saving(tmp_path: Path) -> None:
    heads(standardise=False).save(tmp_path)
    assert torch.equal(AlignHeads.load(tmp_path).patch_std, torch.ones(tiny.PATCH))


def test_loading_where_there_are_no_heads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no align_heads\.json"):
        AlignHeads.load(tmp_path)


def test_loading_heads_that_do_not_fit_their_configuration(tmp_path: Path) -> None:
    heads().save(tmp_path)
    saved = read_json(tmp_path / "align_heads.json")
    saved["align"]["depth"] = 4
    write_json(tmp_path / "align_heads.json", saved)
    with pytest.raises(UserError, match=r"align_heads\.safetensors does not fit align_heads\.json"):
        AlignHeads.load(tmp_path)


def test_loading_a_foreign_configuration(tmp_path: Path) -> None:
    write_json(tmp_path / "align_heads.json", {"heads": 1})
    with pytest.raises(UserError, match="expected the fields align and latent_channels"):
        AlignHeads.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0"),
        ({"cosine": -0.1}, "cosine is -0.1"),
        ({"depth": 0}, "depth is 0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"patch": 0.0, "pooled": 0.0}, "set weight to 0"),
    ],
)
def test_configuration_is_checked(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignConfig(**changes)


def test_defaults_are_the_papers() -> None:
    config = AlignConfig()
    assert (config.weight, config.cosine, config.smooth, config.depth) == (1.0, 0.9, 0.1, 2)
    assert replace(config, weight=0.0).weight == 0.0
    # Eq. 2's smooth term is torch's smooth L1 at threshold 1.
    assert F.smooth_l1_loss(torch.tensor(3.0), torch.tensor(0.0)).item() == 2.5
