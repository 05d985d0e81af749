"""What a stopped evaluation leaves behind: its features so far, and nothing of a cache that cannot be written."""

from pathlib import Path

import numpy as np
import pytest

from reals.evaluation import feature_parts
from reals.evaluation.feature_cache import features_of
from reals.evaluation.feature_parts import FeatureParts
from reals.evaluation.image_sets import open_images
from reals.runtime import interrupt
from reals.runtime.errors import Interrupted
from tests.apps.test_evaluate import QuadrantMeans


class Counting(QuadrantMeans):
    """Counts images, and asks the process to stop at one of them."""

    def __init__(self, stop_at: int | None = None, monkeypatch: pytest.MonkeyPatch | None = None):
        self.seen = 0
        self._stop_at = stop_at
        self._patch = monkeypatch

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        if self._patch is not None and self.seen == self._stop_at:
            self._patch.setattr(interrupt, "_requested", "SIGTERM")
        return super().__call__(images)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    return tmp_path / "set.npz"


def test_a_stopped_evaluation_goes_on_where_it_was(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = features_of(open_images(batch), QuadrantMeans(), batch_size=4)
    cache = tmp_path / "cache"
    stopped = Counting(12, monkeypatch)
    with pytest.raises(Interrupted, match="after 12 of 30 images"):
        features_of(open_images(batch), stopped, cache, batch_size=4)
    monkeypatch.setattr(interrupt, "_requested", None)
    assert len(list(cache.glob("*.parts/*.npy"))) == 1
    # Whole blocks of another size, lest images meet others in a block than without the stop.
    rest = Counting()
    assert np.array_equal(features_of(open_images(batch), rest, cache, batch_size=5), expected)
    assert rest.seen == 20
    assert [path.suffix for path in cache.iterdir()] == [".npy"]
    again = Counting()
    assert np.array_equal(features_of(open_images(batch), again, cache, batch_size=4), expected)
    assert again.seen == 0


def test_parts_follow_each_other_and_damage_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_parts, "_SECONDS_BETWEEN", 0.0)
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    parts = FeatureParts(tmp_path / "parts", 2)
    for stop in (3, 3, 7, 10):
        parts.offer(rows[:stop])
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["0.npy", "3.npy", "7.npy"]
    assert np.array_equal(FeatureParts(tmp_path / "parts", 2).rows(), rows)
    (tmp_path / "parts" / "3.npy").write_bytes(b"cut short")
    damaged = FeatureParts(tmp_path / "parts", 2)
    assert np.array_equal(damaged.rows(), rows[:3])
    damaged.offer(rows)
    assert np.array_equal(FeatureParts(tmp_path / "parts", 2).rows(), rows)
    assert len(FeatureParts(tmp_path / "parts", 3).rows()) == 0
    damaged.discard()
    assert not (tmp_path / "parts").exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    network = Counting()
    features = features_of(open_images(batch), network, tmp_path / "file" / "features", batch_size=8)
    assert np.array_equal(features, features_of(open_images(batch), QuadrantMeans(), batch_size=8))
    assert network.seen == 30
    assert "features are neither kept nor reused" in capsys.readouterr().err


def test_a_disk_that_fills_up_loses_no_features(
    batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_parts, "_SECONDS_BETWEEN", 0.0)
    expected = features_of(open_images(batch), QuadrantMeans(), batch_size=8)
    monkeypatch.setattr(np, "save", full)
    found = features_of(open_images(batch), QuadrantMeans(), tmp_path / "cache", batch_size=8)
    assert np.array_equal(found, expected)
    shown = capsys.readouterr().err
    assert shown.count("features so far are not kept (No space left on device)") == 1
    assert shown.count("features are not kept (No space left on device)") == 1
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
