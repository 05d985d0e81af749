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


def test_items_that_all_agree_leave_a_share_uncertain() -> None:
    """Wilson's interval; a bootstrap of equal items never varies."""
    reach = 1.959964**2 / (20 + 1.959964**2)
    inside, copied = mean_estimate(np.ones(20, bool)), mean_estimate(np.zeros(20, bool))
    assert inside.to_dict() == pytest.approx({"value": 1.0, "low": 1 - reach, "high": 1.0})
    assert copied.to_dict() == pytest.approx({"value": 0.0, "low": 0.0, "high": reach})
    assert mean_estimate(np.ones(20)).to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0}
    one_less = mean_estimate(np.arange(20) > 0)
    assert compare(inside, one_less, higher_is_better=True).verdict == "undecided"
    both = compare(inside, inside, higher_is_better=True)
    assert both.difference_interval == pytest.approx((-reach, reach))
    assert both.relative_interval == pytest.approx((-reach, reach))
    # Where the replicates reach further, they count.
    assert mean_estimate(np.ones(20, bool), more={"other": np.linspace(-9, 9, 20)}).interval()[0] < 1 - 2 * reach


def test_intervals_are_normal_quantiles_for_many_replicates_of_a_normal_estimate() -> None:
    replicates = np.random.default_rng(0).normal(size=40_000)
    low, high = Estimate(3.0, replicates).interval()
    assert (low, high) == pytest.approx((3 - 1.96, 3 + 1.96), abs=0.05)
    narrow = Estimate(3.0, replicates).interval(0.5)
    assert narrow == pytest.approx((3 - 0.6745, 3 + 0.6745), abs=0.03)
    other = Estimate(5.0, np.random.default_rng(1).normal(size=40_000))
    difference = compare(Estimate(3.0, replicates), other, higher_is_better=True).difference_interval
    assert difference == pytest.approx((2 - 1.96 * 2**0.5, 2 + 1.96 * 2**0.5), abs=0.06)


def test_other_items_widen_a_mean_and_the_same_items_move_with_it() -> None:
    rng = np.random.default_rng(0)
    values, influence = rng.normal(size=300), rng.normal(size=300)
    apart = mean_estimate(values, replicates=2000, more={"reference": influence - influence.mean()})
    together = mean_estimate(values, replicates=2000, more={"samples": values.mean() - values})
    assert apart.replicates.std() == pytest.approx((2 / 300) ** 0.5, rel=0.1)
    assert together.replicates == pytest.approx(np.full(2000, values.mean()))
