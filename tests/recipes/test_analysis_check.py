"""Whether promises held, on made-up runs whose order is known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reals.recipes.analysis_check import TARGET, predictions, trained_spaces
from reals.runtime.errors import UserError


def make_run(directory: Path, promise: tuple[float, float], distance: tuple[float, float], judge: str = "f1") -> Path:
    """Write a run whose arms have one number each (centred consistency) and one distance."""
    arms = ("baseline", "aligned")
    spaces = [
        {
            "name": arm,
            "measured": {
                "semantic_consistency/all/centred": {"value": value},
                "interpolation_fd/classifier": {"value": 1 - value},
                "reconstruction/psnr": {"value": 30 - value},
            },
        }
        for arm, value in zip(arms, promise, strict=True)
    ]
    metrics = {
        "arms": {arm: {TARGET: value} for arm, value in zip(arms, distance, strict=True)},
        "protocol": {"feature_networks": {"classifier": {"fingerprint": judge}}},
    }
    (directory / "analysis").mkdir(parents=True)
    (directory / "analysis" / "analysis.json").write_text(json.dumps({"spaces": spaces}))
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs in which the promise holds."""
    first = make_run(tmp_path / "a", (0.2, 0.5), (9.0, 5.0))
    return [first, make_run(tmp_path / "b", (0.3, 0.6), (8.0, 4.0), judge="f2")]


def test_promises_that_held_correlate(runs: list[Path]) -> None:
    found = {prediction.name: prediction for prediction in predictions(trained_spaces(runs))}
    assert set(found) == {
        "diffusability",
        "interpolation_fd/*",
        "semantic_consistency/all/centred",
        "reconstruction/psnr",
    }
    for name in ("diffusability", "interpolation_fd/*", "semantic_consistency/all/centred"):
        correlation = found[name].correlation
        assert correlation is not None
        assert (correlation.rho, correlation.count) == (pytest.approx(1), 4)
        assert correlation.p_value == pytest.approx(2 / 24)
        assert (found[name].pairs_right, found[name].pairs) == (2, 2)
    misleading = found["reconstruction/psnr"]
    assert misleading.correlation is not None
    assert misleading.correlation.rho == pytest.approx(-1)
    assert (misleading.pairs_right, misleading.pairs) == (0, 2)


def test_two_spaces_have_a_pair_and_no_correlation(runs: list[Path]) -> None:
    found = predictions(trained_spaces(runs[:1]))
    assert {prediction.correlation for prediction in found} == {None}
    assert {prediction.pairs for prediction in found} == {1}


def test_the_tool_prints_a_table_and_warns_of_several_judges(runs: list[Path], tmp_path: Path) -> None:
    tool = [sys.executable, str(Path(__file__).parents[2] / "tools" / "rank_correlation.py")]
    done = subprocess.run([*tool, *map(str, runs)], capture_output=True, text=True, check=True)
    assert "| diffusability ↑ | +1.00 | 0.083 | 4 | 2 of 2 |" in done.stdout
    assert "come from different networks" in done.stdout
    failed = subprocess.run([*tool, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == f"rank_correlation: {tmp_path}: is not analysed; first: reals analyze {tmp_path}\n"


def test_an_unknown_target_names_the_nearest(runs: list[Path]) -> None:
    with pytest.raises(
        UserError, match=r"baseline has no 'samples/guidance-1/fd/clasifier'; did you mean '.*classifier'"
    ):
        trained_spaces(runs, "samples/guidance-1/fd/clasifier")
