import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reals.evaluation import frechet
from reals.evaluation.bootstrap import linearised_estimate
from reals.evaluation.frechet import (
    FrechetPair,
    GaussianAccumulator,
    GaussianStatistics,
    ResampledGaussians,
    frechet_distance,
    frechet_estimate,
    frechet_influence,
    gaussian_statistics,
)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["full_rank", "identical", "rank_deficient_N_lt_D"])
def test_distance_agrees_with_the_adm_evaluator(golden: Path, case: str) -> None:
    arrays = np.load(golden / "metrics" / "fid_small.npz", allow_pickle=False)
    expected = json.loads((golden / "metrics" / "values.json").read_text())[f"fid/{case}"]
    reference, sample = (gaussian_statistics(arrays[f"{case}/{name}"]) for name in ("ref", "sample"))
    for key in ("adm", "eigvalsh"):
        assert frechet_distance(reference, sample) == pytest.approx(expected[key], abs=1e-5)


@pytest.mark.golden
def test_statistics_agree_with_the_stored_ones(golden: Path) -> None:
    arrays = np.load(golden / "metrics" / "fid_small.npz", allow_pickle=False)
    statistics = gaussian_statistics(arrays["full_rank/ref"])
    assert statistics.count == 400
    np.testing.assert_allclose(statistics.mean, arrays["full_rank/mu_ref"], atol=1e-6)
    np.testing.assert_allclose(statistics.covariance, arrays["full_rank/sigma_ref"], atol=1e-12)


@pytest.mark.golden
def test_dead_dimensions_change_nothing(golden: Path) -> None:
    arrays = np.load(golden / "metrics" / "fid_small.npz", allow_pickle=False)
    reference, sample = arrays["dead_dims/ref"], arrays["dead_dims/sample"]
    alive = (reference.std(0) > 0) | (sample.std(0) > 0)
    assert not alive.all()
    whole = frechet_distance(gaussian_statistics(reference), gaussian_statistics(sample))
    reduced = frechet_distance(gaussian_statistics(reference[:, alive]), gaussian_statistics(sample[:, alive]))
    shift = float(((reference.mean(0) - sample.mean(0))[~alive] ** 2).sum())
    assert whole == pytest.approx(reduced + shift, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_distance_of_diagonal_gaussians_is_closed_form_and_symmetric(seed: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, dimension)), rng.uniform(0, 2, size=(2, dimension))
    a, b = (GaussianStatistics(mean, np.diag(s**2), 10) for mean, s in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6)


def test_counts_repeat_rows() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    counts = np.array([2, 0, 1, 3, 1])
    weighted, repeated = gaussian_statistics(features, counts), gaussian_statistics(np.repeat(features, counts, axis=0))
    assert weighted.count == repeated.count == 7
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, atol=1e-12)


def test_mode_collapse_raises_the_distance() -> None:
    rng = np.random.default_rng(0)
    reference, varied = rng.normal(size=(2, 300, 4))
    collapsed = varied * 0.1
    statistics = gaussian_statistics(reference)
    assert frechet_distance(statistics, gaussian_statistics(collapsed)) > 10 * frechet_distance(
        statistics, gaussian_statistics(varied)
    )


def test_interval_surrounds_the_value_although_replicates_are_biased() -> None:
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(120, 16)), rng.normal(size=(120, 16)) + 0.2
    estimate = frechet_estimate(
        ResampledGaussians.fit(reference, role="reference", replicates=40),
        ResampledGaussians.fit(samples, replicates=40),
    )
    point = frechet_distance(gaussian_statistics(reference), gaussian_statistics(samples))
    assert estimate.value == pytest.approx(point)
    assert np.median(estimate.replicates) > 1.2 * estimate.value
    low, high = estimate.interval()
    assert low < estimate.value < high


def test_interval_is_as_wide_as_fresh_sets_would_spread() -> None:
    def distance(seed: int) -> float:
        rng = np.random.default_rng(seed)
        return frechet_distance(
            gaussian_statistics(rng.normal(size=(300, 4))), gaussian_statistics(rng.normal(size=(300, 4)) + 0.5)
        )

    spread = np.std([distance(seed) for seed in range(150)])
    rng = np.random.default_rng(999)
    estimate = frechet_estimate(
        ResampledGaussians.fit(rng.normal(size=(300, 4)), role="reference", replicates=150),
        ResampledGaussians.fit(rng.normal(size=(300, 4)) + 0.5, replicates=150),
    )
    assert estimate.replicates.std() == pytest.approx(spread, rel=0.35)


def test_paired_sets_are_resampled_together() -> None:
    features = np.random.default_rng(0).normal(size=(60, 3))
    together = ResampledGaussians.fit(features, replicates=5)
    assert frechet_estimate(together, together).replicates.max() == pytest.approx(0.0, abs=1e-6)
    apart = ResampledGaussians.fit(features, role="reference", replicates=5)
    assert frechet_estimate(apart, together).replicates.min() > 1e-3


def test_replicates_wait_for_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program has a core, each of a decomposition's thousands of small steps would wait for it."""
    threads, distance = [], frechet.frechet_distance

    def watch(a: GaussianStatistics, b: GaussianStatistics) -> float:
        threads.append(torch.get_num_threads())
        return distance(a, b)

    monkeypatch.setattr(frechet, "frechet_distance", watch)
    resampled = ResampledGaussians.fit(np.random.default_rng(0).normal(size=(30, 3)), replicates=4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        frechet_estimate(resampled, resampled)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 5


def test_errors_name_the_cause() -> None:
    small = gaussian_statistics(np.random.default_rng(0).normal(size=(5, 2)))
    with pytest.raises(ValueError, match="two rows"):
        gaussian_statistics(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        gaussian_statistics(np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        frechet_distance(small, gaussian_statistics(np.random.default_rng(0).normal(size=(5, 3))))
    features = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(ValueError, match="cannot be paired"):
        frechet_estimate(ResampledGaussians.fit(features, replicates=2), ResampledGaussians.fit(features, replicates=3))


def test_statistics_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32) + 100
    monkeypatch.setattr(frechet, "_ROWS", 7)
    statistics = gaussian_statistics(features)
    np.testing.assert_allclose(statistics.mean, features.mean(0, dtype=np.float64))
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False, dtype=np.float64), rtol=1e-9)


def test_batches_that_are_not_kept_give_the_same_gaussian() -> None:
    features = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32) + 100
    accumulator = GaussianAccumulator(5)
    for start in range(0, 50, 8):
        accumulator.add(features[start : start + 8])
    found, expected = accumulator.statistics(), gaussian_statistics(features)
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-10)
    with pytest.raises(ValueError, match="two rows"):
        GaussianAccumulator(2).statistics()
    accumulator.add(np.full((2, 5), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        accumulator.statistics()


@pytest.mark.parametrize(("own", "other"), [(60, 80), (9, 80), (60, 7), (8, 7)])
def test_influence_is_the_derivative_by_an_items_weight(own: int, other: int) -> None:
    """Of 12 dimensions, so that covariances are of full rank, or one or both are not."""
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(own, 12)), rng.normal(size=(other, 12)) * 1.5 + 0.3
    statistics, target = gaussian_statistics(features), gaussian_statistics(others)
    influence = frechet_influence(statistics, target, features)
    # Large enough that the roots of eigenvalues that are zero up to rounding do not matter.
    step = 1e-3
    for item in (0, own - 1):
        distances = []
        for sign in (-1, 1):
            # Weights that sum to one: what the item gains, all items lose in proportion.
            weights = np.full(own, (1 - sign * step) / own)
            weights[item] += sign * step
            mean = weights @ features
            centred = features - mean
            covariance = (centred * weights[:, None]).T @ centred * own / (own - 1)
            distances.append(frechet_distance(GaussianStatistics(mean, covariance, own), target))
        assert influence[item] == pytest.approx((distances[1] - distances[0]) / (2 * step), rel=1e-3, abs=1e-3)
    assert influence.mean() == pytest.approx(0, abs=1e-9)


def test_linearised_intervals_are_as_wide_as_resampled_ones() -> None:
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(400, 8)), rng.normal(size=(300, 8)) * 1.2 + 0.2
    a, b = gaussian_statistics(reference), gaussian_statistics(samples)
    influences = {"reference": frechet_influence(a, b, reference), "samples": frechet_influence(b, a, samples)}
    linearised = linearised_estimate(frechet_distance(a, b), influences, replicates=200)
    resampled = frechet_estimate(
        ResampledGaussians.fit(reference, role="reference", replicates=200),
        ResampledGaussians.fit(samples, replicates=200),
    )
    # The same draws: the two agree replicate by replicate, not only in spread.
    assert np.corrcoef(linearised.replicates, resampled.replicates)[0, 1] > 0.95
    assert linearised.replicates.std() == pytest.approx(resampled.replicates.std(), rel=0.15)


_DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def _wide(rows: int, seed: int) -> np.ndarray:
    """Return features whose covariance's eigenvalues fall over eight decades, as those of networks do."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, 40)) * np.logspace(0, -4, 40) * (1 + seed / 3)) @ rng.normal(size=(40, 40))


@pytest.mark.parametrize("device", _DEVICES)
@pytest.mark.parametrize(("own", "other"), [(500, 400), (30, 400), (400, 30), (20, 30)])
def test_a_pair_finds_both_influences_by_one_decomposition(
    own: int, other: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, others = _wide(own, 0), _wide(other, 1)
    a, b = gaussian_statistics(features), gaussian_statistics(others)
    # The other way round another factor is the base, and the derivative's other form is used.
    expected = frechet_influence(a, b, features), frechet_influence(b, a, others)
    swapped = FrechetPair(b, a).influence(a, features), FrechetPair(b, a).influence(b, others)
    distance = frechet_distance(a, b)
    calls: list[str] = []

    def watched(name: str) -> Callable[[torch.Tensor], Any]:
        run = getattr(torch.linalg, name)

        def watch(matrix: torch.Tensor) -> Any:
            calls.append(name)
            return run(matrix)

        return watch

    for name in ("eigh", "eigvalsh", "cholesky_ex"):
        monkeypatch.setattr(torch.linalg, name, watched(name))
    pair = FrechetPair(a, b, device)
    found = pair.influence(a, features), pair.influence(b, others)
    assert pair.distance == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert calls.count("eigh") == 1
    assert calls.count("cholesky_ex") == (min(own, other) >= 40)
    assert "eigvalsh" not in calls
    for one, *rest in zip(found, expected, swapped, strict=True):
        for each in rest:
            np.testing.assert_allclose(one, each, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_a_broken_cholesky_factor_is_replaced() -> None:
    """A dead dimension leaves a covariance without one, although items abound."""
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(2, 90, 6))
    features[:, 2] = 0.0
    a, b = gaussian_statistics(features), gaussian_statistics(others)
    root = np.delete(features, 2, axis=1), np.delete(others, 2, axis=1)
    rest = frechet_distance(gaussian_statistics(root[0]), gaussian_statistics(root[1]))
    pair = FrechetPair(a, b)
    assert pair.distance >= rest
    assert pair.distance == pytest.approx(frechet_distance(b, a), abs=1e-6)
    assert np.isfinite(pair.influence(a, features)).all()
    assert np.isfinite(pair.influence(b, others)).all()
