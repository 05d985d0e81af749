"""Statistics and normalisation against the paper's numbers, and through the autoencoder's own configuration."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st

from reals.latents.normalise import SD_VAE_SCALING, LatentNormalisation, MinMax, Standardise
from reals.latents.statistics import (
    LatentStatistics,
    LatentStatisticsAccumulator,
    latent_statistics,
    mapped_statistics,
    read_statistics,
    write_statistics,
)
from reals.models.autoencoder import load_autoencoder, save_autoencoder
from reals.runtime.errors import UserError
from tests.latents import tiny

PAPER = LatentStatistics(mean=-0.016722, std=1.0266, min=-6.86283, max=10.76242, count=10_000)


@pytest.mark.golden
def test_min_max_is_equation_7_then_sd_vaes_factor(golden: Path) -> None:
    values = json.loads((golden / "extras" / "reals_norm.json").read_text())
    raw = torch.tensor(values["z"], dtype=torch.float64)
    paper = MinMax().from_statistics(PAPER)
    expected = torch.tensor(values["eq7_then_018215"], dtype=torch.float64)
    torch.testing.assert_close(paper.normalise(raw), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(paper.denormalise(expected), raw, rtol=1e-12, atol=1e-12)
    plain = MinMax(factor=1.0).from_statistics(PAPER)
    torch.testing.assert_close(plain.normalise(raw), torch.tensor(values["eq7"], dtype=torch.float64))
    assert plain.scale == pytest.approx(values["gain"])
    assert -plain.shift * plain.scale == pytest.approx(values["bias"])
    assert PAPER.std * paper.scale == pytest.approx(values["std_after_018215"])


def test_standardise() -> None:
    statistics = LatentStatistics(mean=3.0, std=4.0, min=-1.0, max=9.0, count=1)
    normalisation = Standardise().from_statistics(statistics)
    assert normalisation.normalise(torch.tensor([3.0, 7.0])).tolist() == [0.0, 1.0]
    assert Standardise(std=0.5).from_statistics(statistics).normalise(torch.tensor([7.0])).tolist() == [0.5]


@given(
    shift=st.floats(-10, 10),
    scale=st.floats(0.01, 10),
    values=st.lists(st.floats(-50, 50), min_size=1, max_size=5),
)
def test_denormalise_undoes_normalise(shift: float, scale: float, values: list[float]) -> None:
    normalisation = LatentNormalisation(shift=shift, scale=scale)
    raw = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(normalisation.denormalise(normalisation.normalise(raw)), raw, atol=1e-9, rtol=1e-9)


def test_numbers_live_in_the_autoencoders_configuration(tmp_path: Path) -> None:
    network = tiny.autoencoder()
    normalisation = MinMax().from_statistics(PAPER)
    normalisation.attach(network)
    save_autoencoder(network, tmp_path / "out", extras=[lambda directory: write_statistics(directory, PAPER)])
    theirs = AutoencoderKL.from_pretrained(tmp_path / "out")
    assert theirs.config["scaling_factor"] == normalisation.scale
    assert theirs.config["shift_factor"] == normalisation.shift
    assert LatentNormalisation.of(load_autoencoder(tmp_path / "out")) == normalisation
    assert read_statistics(tmp_path / "out") == PAPER


def test_a_new_autoencoder_is_not_normalised_and_sd_vae_is_scaled_only() -> None:
    network = tiny.autoencoder()
    assert LatentNormalisation.of(network) == LatentNormalisation(shift=0.0, scale=1.0)
    network.register_to_config(scaling_factor=SD_VAE_SCALING)
    assert LatentNormalisation.of(network) == LatentNormalisation(shift=0.0, scale=SD_VAE_SCALING)


def test_per_channel_normalisation_is_refused_and_replaced() -> None:
    network = tiny.autoencoder()
    network.register_to_config(latents_mean=[0.0] * 3, latents_std=[1.0] * 3)
    with pytest.raises(UserError, match="sets latents_mean or latents_std"):
        LatentNormalisation.of(network)
    LatentNormalisation(shift=1.0, scale=2.0).attach(network)
    assert LatentNormalisation.of(network) == LatentNormalisation(shift=1.0, scale=2.0)


@pytest.mark.parametrize("config", [MinMax(), Standardise()])
def test_constant_latents_are_refused(config: MinMax | Standardise) -> None:
    constant = LatentStatistics(mean=1.0, std=0.0, min=1.0, max=1.0, count=5)
    with pytest.raises(UserError, match="all latents have the same value"):
        config.from_statistics(constant)


def test_configurations_are_checked() -> None:
    with pytest.raises(ValueError, match="scale is 0"):
        LatentNormalisation(shift=0.0, scale=0.0)
    with pytest.raises(ValueError, match="factor is 0"):
        MinMax(factor=0.0)
    with pytest.raises(ValueError, match="std is -1"):
        Standardise(std=-1.0)


def test_statistics_are_numpys_whatever_the_batches() -> None:
    torch.manual_seed(0)
    # Far from zero, where E[z²] - E[z]² in float32 would be worthless.
    latents = torch.randn(37, 2, 3, 4) * 0.01 + 1000.0
    expected = latents.double().numpy()
    for size in (1, 5, 37):
        statistics = latent_statistics(latents.split(size))
        assert statistics.mean == pytest.approx(np.mean(expected), rel=1e-12)
        assert statistics.std == pytest.approx(np.std(expected), rel=1e-9)
        assert (statistics.min, statistics.max) == (expected.min(), expected.max())
        assert statistics.count == 37


def test_statistics_of_nothing_and_of_nan() -> None:
    with pytest.raises(UserError, match="no latents to measure"):
        latent_statistics([])
    accumulator = LatentStatisticsAccumulator()
    accumulator.update(torch.full((1, 1, 1, 1), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        accumulator.result()


def test_statistics_file_has_the_authors_keys(tmp_path: Path) -> None:
    write_statistics(tmp_path, PAPER)
    saved = json.loads((tmp_path / "mean_std.json").read_text())
    assert saved == {"mean": -0.016722, "std": 1.0266, "min": -6.86283, "max": 10.76242, "count": 10_000}


def test_a_file_without_our_count_stays_one(tmp_path: Path) -> None:
    theirs = {"mean": -0.016722, "std": 1.0266, "min": -6.86283, "max": 10.76242}
    (tmp_path / "mean_std.json").write_text(json.dumps(theirs))
    found = read_statistics(tmp_path)
    assert found == replace(PAPER, count=None)
    assert MinMax().from_statistics(found) == MinMax().from_statistics(PAPER)
    write_statistics(tmp_path, found)
    assert json.loads((tmp_path / "mean_std.json").read_text()) == theirs


@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_mapped_statistics_are_those_of_mapped_latents(scale: float) -> None:
    latents = torch.randn(5, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normalisation = LatentNormalisation(shift=0.7, scale=scale)
    found = mapped_statistics(latent_statistics([latents]), 0.7, scale)
    expected = latent_statistics([normalisation.normalise(latents)])
    assert asdict(found) == pytest.approx(asdict(expected))


def test_missing_and_malformed_statistics(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mean_std\.json: no such file"):
        read_statistics(tmp_path)
    (tmp_path / "mean_std.json").write_text('{"mean": 0.0}')
    with pytest.raises(UserError, match="field 'std' is missing"):
        read_statistics(tmp_path)
    (tmp_path / "mean_std.json").write_text('{"mean": NaN, "std": 1.0, "min": 0.0, "max": 1.0, "count": 1}')
    with pytest.raises(UserError, match="not finite"):
        read_statistics(tmp_path)
    (tmp_path / "mean_std.json").write_text('{"mean": 0.0, "std": 1.0, "min": 0.0, "max": 1.0, "count": 0}')
    with pytest.raises(UserError, match="count is 0"):
        read_statistics(tmp_path)
