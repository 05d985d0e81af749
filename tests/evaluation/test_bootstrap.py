import numpy as np
import pytest

from reals.evaluation.bootstrap import Estimate, compare, mean_estimate, resampling_counts


def test_resampling_depends_on_role_replicate_count_and_seed_only() -> None:
    first = resampling_counts(50, 3)
    assert first.sum() == 50
    assert np.array_equal(first, resampling_counts(50, 3))
    for other in (
        resampling_counts(50, 4),
        resampling_counts(50, 3, role="reference"),
        resampling_counts(50, 3, seed=1),
    ):
        assert not np.array_equal(first, other)


def test_mean_estimate_has_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate = mean_estimate(values, replicates=500)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.replicates.std() == pytest.approx(2.0 / 20, rel=0.15)


def test_intervals_of_a_mean_cover_the_truth_as_often_as_they_say() -> None:
    covered = 0
    for trial in range(120):
        values = np.random.default_rng(trial).normal(1.0, 1.0, 60)
        low, high = mean_estimate(values, replicates=60, seed=trial).interval()
        covered += low <= 1.0 <= high
    assert 0.87 <= covered / 120 <= 0.99


def test_mean_estimate_refuses_infinite_and_absent_values() -> None:
    with pytest.raises(ValueError, match="1 not finite"):
        mean_estimate(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="0 given"):
        mean_estimate(np.empty(0))


def test_centred_replicates_lose_their_bias_and_keep_their_spread() -> None:
    estimate = Estimate(2.0, np.array([4.0, 5.0, 6.0]))
    assert estimate.centred.tolist() == [1.0, 2.0, 3.0]
    low, high = estimate.interval()
    assert low < 2.0 < high
    assert estimate.to_dict() == {"value": 2.0, "low": low, "high": high}


def test_comparison_of_correlated_arms_is_paired() -> None:
    difficulty = np.random.default_rng(0).normal(0.0, 5.0, 300)
    baseline = mean_estimate(20.0 + difficulty)
    other = mean_estimate(20.2 + difficulty)
    comparison = compare(baseline, other, higher_is_better=True)
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.difference_interval == pytest.approx((0.2, 0.2))
    assert comparison.verdict == "better"
    assert compare(baseline, other, higher_is_better=False).verdict == "worse"
    # The intervals of the two arms overlap: only the pairing tells them apart.
    assert baseline.interval()[1] > other.interval()[0]


def test_relative_change_is_free_of_the_replicates_bias() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.05, (2, 400))
    baseline, other = Estimate(2.0, 5.0 + noise[0]), Estimate(1.5, 4.5 + noise[1])
    comparison = compare(baseline, other, higher_is_better=False)
    assert comparison.relative_change == pytest.approx(-0.25)
    assert comparison.relative_interval is not None
    low, high = comparison.relative_interval
    assert low < -0.25 < high < -0.15
    assert comparison.verdict == "better"


def test_no_relative_change_from_a_baseline_around_zero() -> None:
    comparison = compare(
        Estimate(0.01, np.array([-0.1, 0.0, 0.2])), Estimate(1.0, np.array([0.9, 1.0, 1.1])), higher_is_better=True
    )
    assert comparison.relative_change is None
    assert comparison.to_dict()["relative_interval"] is None


def test_an_estimate_against_itself_is_undecided() -> None:
    estimate = mean_estimate(np.arange(10.0), replicates=20)
    comparison = compare(estimate, estimate, higher_is_better=True)
    assert (comparison.difference, comparison.verdict) == (0.0, "undecided")


def test_comparison_refuses_different_numbers_of_replicates() -> None:
    with pytest.raises(ValueError, match="paired"):
        compare(Estimate(1.0, np.ones(3)), Estimate(1.0, np.ones(4)), higher_is_better=True)
