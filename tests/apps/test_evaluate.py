import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.apps.evaluate import evaluate
from reals.apps.evaluation_table import render
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.runtime.errors import UserError


class QuadrantMeans:
    """A feature network of twelve dimensions: the mean colour of each quarter of the image."""

    name = "quadrants"
    dimension = 12
    fingerprint = "f" * 64
    resize = "none"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        count, height, width, _ = images.shape
        blocks = images.reshape(count, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4))
        return (blocks.reshape(count, 12) / 32).astype(np.float32)


def _images(count: int, seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(_images(24, 0)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index:03}.png")
    np.savez(tmp_path / "samples.npz", arr_0=_images(40, 1))
    return tmp_path / "photos", tmp_path / "samples.npz"


def test_a_folder_against_a_batch(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    network = QuadrantMeans()
    result = evaluate(*map(str, sets), output=output, replicates=20, network=network)
    assert json.loads(output.read_text()) == result
    expected = frechet_distance(
        gaussian_statistics(network(_images(24, 0))), gaussian_statistics(network(_images(40, 1)))
    )
    distance = result["metrics"]["fd/quadrants"]
    assert distance["value"] == pytest.approx(expected)
    assert distance["low"] < distance["value"] < distance["high"]
    assert 0 <= result["metrics"]["precision/quadrants"]["value"] <= 1
    protocol = result["protocol"]
    assert (protocol["reference"]["images"], protocol["samples"]["images"]) == (24, 40)
    assert protocol["network"]["sha256"] == "f" * 64
    assert "fid" in protocol["not_reported"]
    assert "fid" not in result["metrics"]
    assert any("fewer than 10000" in warning for warning in result["warnings"])


def test_the_seed_decides_the_intervals_and_nothing_else(sets: tuple[Path, Path]) -> None:
    results = [
        evaluate(*map(str, sets), replicates=10, network=QuadrantMeans(), seed=seed)["metrics"]["fd/quadrants"]
        for seed in (0, 0, 1)
    ]
    assert results[0] == results[1]
    assert results[0]["value"] == results[2]["value"]
    assert results[0]["low"] != results[2]["low"]


def test_samples_against_themselves_are_called_so(sets: tuple[Path, Path]) -> None:
    result = evaluate(str(sets[1]), str(sets[1]), replicates=5, network=QuadrantMeans())
    assert result["metrics"]["fd/quadrants"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["metrics"]["recall/quadrants"]["value"] == 1.0
    assert "reference and samples hold the same images" in result["warnings"]


def test_the_real_network_on_a_few_images(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        np.savez(tmp_path / f"{name}.npz", arr_0=_images(6, seed, 32))
    result = evaluate(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), replicates=3)
    assert result["metrics"]["fd/efficientnet-lite0"]["value"] > 0
    assert "rank-deficient" in result["warnings"][0]
    assert result["protocol"]["network"]["resize"].startswith("128x128")


def test_a_table_for_the_terminal(sets: tuple[Path, Path]) -> None:
    text = render(evaluate(*map(str, sets), replicates=5, network=QuadrantMeans()))
    for part in ("fd/quadrants", "95 % interval", "reference: 24 images of 8x8", "samples: 40 images", "not reported"):
        assert part in text
    assert "\x1b" not in text


def test_different_sizes_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", arr_0=_images(8, 0, 16))
    with pytest.raises(UserError, match=r"8x8, .*large.npz of 16x16"):
        evaluate(str(sets[0]), str(tmp_path / "large.npz"), network=QuadrantMeans())


def test_too_few_images_and_replicates_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", arr_0=_images(3, 0))
    with pytest.raises(UserError, match=r"few\.npz: holds 3 images"):
        evaluate(str(sets[0]), str(tmp_path / "few.npz"), network=QuadrantMeans())
    with pytest.raises(UserError, match="replicates 1"):
        evaluate(*map(str, sets), replicates=1, network=QuadrantMeans())


def test_a_missing_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        evaluate(str(tmp_path / "nowhere"), str(tmp_path / "nowhere.npz"))
