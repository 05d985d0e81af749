"""The simulations behind documented rates and biases, small."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import fid_infinity_bias, interval_cover

from reals.apps.evaluate import evaluate
from reals.apps.evaluation_request import Extras
from reals.evaluation.bootstrap import Estimate, compare
from reals.evaluation.measures import Settings
from reals.evaluation.metric_kinds import split_name
from reals.evaluation.precision_recall import Arithmetic


class BytesAsFeatures(interval_cover.DrawnFeatures):
    """Reads one float32 feature from the four red values of each row."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images[..., 0]).view(np.float32)[..., 0]


@pytest.mark.parametrize("arithmetic", ["exact", "adm_fp16"])
def test_intervals_and_verdicts_are_those_of_evaluate(tmp_path: Path, arithmetic: Arithmetic) -> None:
    row, paths = interval_cover.Row(8, 60, 50, scale=0.7, arithmetic=arithmetic), {}
    for role in interval_cover.ROLES:
        red = row.draw(role, 3).view(np.uint8).reshape(-1, 8, 4, 1)
        paths[role] = str(tmp_path / f"{role}.npz")
        np.savez(paths[role], arr_0=np.repeat(red, 3, axis=3))
    result = evaluate(
        paths["reference"],
        paths["samples"],
        baseline=paths["baseline"],
        network=BytesAsFeatures(8),
        arithmetic=arithmetic,
        extras=Extras(more=True),
        replicates=20,
    )
    found = interval_cover.measured(row, 3, Settings(arithmetic=arithmetic, replicates=20))
    assert set(found["samples"]) == {"fd", "precision", "recall", "kd", "density", "coverage", "fd_infinity"}
    for name, estimate in found["samples"].items():
        metric, kind = result["metrics"][f"{name}/drawn"], split_name(name)[0]
        # Reported intervals are cut where no true value lies; a mean over fresh sets does not lie there either.
        low, high = np.clip(estimate.interval(), kind.lowest, kind.highest)
        assert (metric["low"], metric["value"], metric["high"]) == pytest.approx((low, estimate.value, high), abs=1e-12)
        comparison = compare(found["baseline"][name], estimate, kind.higher_is_better).to_dict()
        assert comparison == result["baseline"]["comparison"][f"{name}/drawn"]


def test_rates_are_counted_over_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the mean over all sets is 1; intervals reach 0.95 around 0, 1, 1 and 1.5; two pairs differ."""
    spread = np.linspace(-1, 1, 401)
    values = [(0.0, 2.0), (1.0, 1.0), (1.0, 0.0), (1.5, 1.5)]

    def arms(row: interval_cover.Row, trial: int, settings: Settings, fixed: bool) -> dict[str, dict[str, Estimate]]:
        samples, baseline = (Estimate(value, value + spread) for value in values[trial])
        return {"samples": {"recall": samples}, "baseline": {"recall": baseline}}

    monkeypatch.setattr(interval_cover, "measured", arms)
    rates = interval_cover.simulate(interval_cover.Row(1, 1, 1), 4)["recall"]
    # The replicates of both arms move together, so that every difference is certain.
    assert (rates["mean"], rates["cover"], rates["false"]) == (1.0, 75.0, 50.0)
    errors = [100 * (share * (1 - share) / 8) ** 0.5 for share in (5 / 8, 4 / 8)]
    assert [rates["cover ±"], rates["false ±"]] == pytest.approx(errors)


def test_intervals_of_few_replicates_hold_less_and_mislead_more() -> None:
    row, names = interval_cover.Row(4, 60, 60), ("precision", "recall", "density", "coverage")
    enough, few = (interval_cover.simulate(row, 8, replicates=count) for count in (50, 2))
    cover, held = (np.mean([rates[name]["cover"] for name in names]) for rates in (enough, few))
    false, called = (np.mean([rates[name]["false"] for name in names]) for rates in (enough, few))
    assert held + 20 < 80 < cover
    assert false < 15 < called - 10


def test_fixed_manifolds_leave_out_a_part_of_the_spread() -> None:
    row = interval_cover.Row(8, 300, 100)
    found = interval_cover.measured(row, 0, Settings(replicates=50), fixed=True)["samples"]
    for name in ("precision", "recall", "density", "coverage"):
        both, verdicts = found[name], found[f"{name}/fixed"]
        assert verdicts.value == both.value
        assert 0.2 * both.replicates.std() < verdicts.replicates.std() < 0.95 * both.replicates.std()


def test_an_unfamiliar_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["interval_cover.py", "--row", "64-1000-1000", "none-such"])
    with pytest.raises(SystemExit, match=r"--row none-such: not among 64-1000-1000, "):
        interval_cover.main()


def test_extrapolation_leaves_an_intercept_that_is_too_low() -> None:
    dimension, scale = 40, 1.1
    arguments = fid_infinity_bias.Arguments(dimension=dimension, trials=20, scale=scale, shift=0.1)
    found = fid_infinity_bias.simulate(4.8, arguments)
    assert found["samples"] == 192
    # The variance of the mean, and to second order that of the covariance, by which its root's trace is too small.
    expected = scale * dimension * (dimension + 1) / 4 / 191 + scale**2 * dimension / 192
    assert found["bias"] == pytest.approx(expected, rel=0.1)
    for name in ("left", "left_original"):
        assert -20 < found[name] < -2 * found[f"{name} ±"] < 0
