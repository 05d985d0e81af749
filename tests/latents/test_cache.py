"""Cached posteriors and features: what is read is what the networks say, also after an interruption."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from reals.latents import encoding
from reals.latents.cache import LatentCache, encode_images
from reals.latents.features import (
    FeatureCache,
    cache_features,
    cached_bytes,
    feature_statistics,
)
from reals.models.autoencoder import posterior
from reals.models.fingerprint import weights_fingerprint
from reals.models.semantic import Features
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import Progress
from tests.latents import tiny

IMAGES = tiny.images(11)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_ROWS_PER_SHARD", 4)


def load(rows: np.ndarray) -> np.ndarray:
    return IMAGES[rows]


def encode(directory: Path, seed: int = 0, load: Callable[[np.ndarray], np.ndarray] = load, **metadata: str) -> None:
    network = tiny.autoencoder(seed)
    encode_images(network, load, len(IMAGES), directory, batch_size=3, device="cpu", metadata=metadata)


def features_of(directory: Path, rows: np.ndarray, batch_size: int = 3, grid: tuple[int, int] = tiny.GRID) -> None:
    cache_features(
        tiny.Encoder(), load, rows, grid, directory, batch_size=batch_size, device="cpu", metadata={"store": "a"}
    )


def test_posteriors_are_the_autoencoders(tmp_path: Path) -> None:
    encode(tmp_path, store="a")
    cache = LatentCache(tmp_path)
    rows, mirrored = np.array([10, 0, 5]), np.array([True, False, True])
    pixels = to_pixels(IMAGES[rows])
    pixels[[0, 2]] = pixels[[0, 2]].flip(-1)
    with torch.no_grad():
        expected = posterior(tiny.autoencoder().eval(), pixels)
    for ours, theirs in zip(cache.posterior(rows, mirrored), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)
    assert len(cache) == 11
    assert cache.shape == (tiny.CHANNELS, *tiny.GRID)
    assert cache.metadata["store"] == "a"
    assert cache.autoencoder == weights_fingerprint(tiny.autoencoder())


def test_samples(tmp_path: Path) -> None:
    encode(tmp_path)
    cache = LatentCache(tmp_path)
    rows = np.arange(4)
    mean, log_variance = cache.posterior(rows, True)
    noise = torch.randn(4, *cache.shape)
    torch.testing.assert_close(cache.sample(rows, True, noise), mean + torch.exp(0.5 * log_variance) * noise)
    assert not torch.equal(mean, cache.posterior(rows, False)[0])
    batches = list(cache.samples(np.arange(11), batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    again = torch.cat(list(cache.samples(np.arange(11), batch_size=4)))
    assert torch.equal(torch.cat(batches), again)
    assert not torch.equal(again, torch.cat(list(cache.samples(np.arange(11), batch_size=4, seed=1))))


def test_an_interrupted_cache_continues(tmp_path: Path) -> None:
    asked: list[int] = []

    def stopping(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        if 5 in rows and asked.count(5) == 1:
            raise Interrupted("stopped")
        return IMAGES[rows]

    with pytest.raises(Interrupted):
        encode(tmp_path, load=stopping)
    with pytest.raises(UserError, match="not a complete cache"):
        LatentCache(tmp_path)
    encode(tmp_path, load=stopping)
    # The first shard was whole and is not encoded again.
    assert [asked.count(row) for row in (0, 3, 5, 10)] == [1, 1, 2, 1]
    encode(tmp_path / "whole")
    rows = np.arange(11)
    for ours, theirs in zip(
        LatentCache(tmp_path).posterior(rows), LatentCache(tmp_path / "whole").posterior(rows), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_progress_of_a_resumed_cache_counts_only_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Progress] = []

    @contextmanager
    def recorded(description: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        started.append(Progress(description, total, unit, done))
        yield started[-1]

    monkeypatch.setattr(encoding, "progress", recorded)
    encode(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "mean-00001.npy").unlink()
    encode(tmp_path)
    encode(tmp_path)
    # Nothing was left to do the third time; the second time one shard of four rows came before the clock started.
    assert [(shown.done, shown.total, shown._first) for shown in started] == [(11, 11, 0), (11, 11, 4)]


def test_another_autoencoder_or_other_images_are_refused(tmp_path: Path) -> None:
    encode(tmp_path, store="a")
    with pytest.raises(UserError, match="made with other settings"):
        encode(tmp_path, seed=1, store="a")
    with pytest.raises(UserError, match="made with other settings"):
        encode(tmp_path, store="b")


def test_features_are_the_encoders(tmp_path: Path) -> None:
    rows = np.array([7, 2, 9, 0, 1])
    features_of(tmp_path, rows)
    cache = FeatureCache(tmp_path)
    positions, mirrored = np.array([4, 0, 2]), np.array([False, True, False])
    pixels = to_pixels(IMAGES[rows[positions]])
    pixels[1] = pixels[1].flip(-1)
    expected = tiny.Encoder()(pixels, tiny.GRID)
    features = cache.get(positions, mirrored)
    torch.testing.assert_close(features.patch, expected.patch, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(features.pooled, expected.pooled, atol=1e-3, rtol=1e-3)
    assert features.patch.dtype == features.pooled.dtype == torch.float32
    assert cache.rows.tolist() == rows.tolist()
    assert len(cache) == 5


def test_features_depend_on_neither_batch_nor_shard(tmp_path: Path) -> None:
    rows = np.arange(11)
    features_of(tmp_path / "a", rows, batch_size=3)
    features_of(tmp_path / "b", rows, batch_size=100)
    one, other = FeatureCache(tmp_path / "a").get(rows, True), FeatureCache(tmp_path / "b").get(rows, True)
    assert torch.equal(one.patch, other.patch)
    assert torch.equal(one.pooled, other.pooled)


def test_features_of_other_rows_or_grids_are_refused(tmp_path: Path) -> None:
    features_of(tmp_path, np.arange(5))
    with pytest.raises(UserError, match="made with other settings"):
        features_of(tmp_path, np.arange(1, 6))
    with pytest.raises(UserError, match="made with other settings"):
        features_of(tmp_path, np.arange(5), grid=(2, 2))


def test_cached_bytes_is_what_is_written(tmp_path: Path) -> None:
    features_of(tmp_path, np.arange(8))
    written = [np.load(path).nbytes for path in tmp_path.glob("p*-*.npy")]
    assert sum(written) == cached_bytes(8, tiny.GRID, tiny.Encoder.patch_dim, tiny.Encoder.pooled_dim)


def test_feature_statistics_are_numpys(tmp_path: Path) -> None:
    features_of(tmp_path, np.arange(11))
    cache = FeatureCache(tmp_path)
    everything = cache.get(np.arange(11))
    statistics = feature_statistics(cache.batches(batch_size=4))
    patch, pooled = everything.patch.flatten(0, 2).double(), everything.pooled.double()
    torch.testing.assert_close(statistics.patch_mean, patch.mean(0).float())
    torch.testing.assert_close(statistics.patch_std, patch.std(0, correction=0).float())
    torch.testing.assert_close(statistics.pooled_mean, pooled.mean(0).float())
    torch.testing.assert_close(statistics.pooled_std, pooled.std(0, correction=0).float())
    assert sum(len(batch.pooled) for batch in cache.batches(limit=6, batch_size=4)) == 6


def test_constant_channels_are_left_alone() -> None:
    patch = torch.randn(3, 2, 2, 2)
    patch[..., 0] = 1e4
    statistics = feature_statistics([Features(patch=patch, pooled=torch.zeros(3, 4))])
    assert statistics.patch_std[0].item() == 1.0
    assert statistics.patch_std[1].item() != 1.0
    assert statistics.pooled_std.tolist() == [1.0] * 4


def test_statistics_of_nothing() -> None:
    with pytest.raises(UserError, match="no features to measure"):
        feature_statistics([])


def test_autocast_is_recorded(tmp_path: Path) -> None:
    network = tiny.autoencoder()
    encode_images(network, load, 4, tmp_path, batch_size=4, device="cpu", dtype=torch.bfloat16, metadata={})
    assert LatentCache(tmp_path).metadata["precision"] == "bfloat16"
    with pytest.raises(UserError, match="made with other settings"):
        encode_images(network, load, 4, tmp_path, batch_size=4, device="cpu", metadata={})
