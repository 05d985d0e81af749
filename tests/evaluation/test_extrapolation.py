import numpy as np
import pytest

from reals.evaluation import extrapolation
from reals.evaluation.bootstrap import Estimate
from reals.evaluation.extrapolation import extrapolated_distance
from reals.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics


def test_the_intercept_is_nearer_to_the_truth_than_the_distance() -> None:
    dimension, rng = 24, np.random.default_rng(0)
    reference = GaussianStatistics(np.zeros(dimension), np.eye(dimension), None)
    truth = dimension * 0.1**2
    errors = {"plain": [], "extrapolated": []}
    for _ in range(8):
        samples = rng.normal(size=(400, dimension)) * 1.1
        plain = frechet_distance(reference, gaussian_statistics(samples))
        whole = Estimate(plain, np.full(20, plain))
        errors["plain"].append(plain - truth)
        errors["extrapolated"].append(extrapolated_distance(reference, samples, whole).value - truth)
    assert np.mean(errors["plain"]) > 0.2
    assert abs(np.mean(errors["extrapolated"])) < 0.25 * np.mean(errors["plain"])


def test_the_seed_decides_and_the_interval_holds_the_distances_own_spread() -> None:
    rng = np.random.default_rng(0)
    reference = GaussianStatistics(np.zeros(4), np.eye(4), None)
    samples = rng.normal(size=(200, 4)) + 0.5
    whole = Estimate(1.0, 1.0 + rng.normal(size=200))
    one, again = (extrapolated_distance(reference, samples, whole) for _ in range(2))
    assert one.value == again.value
    assert one.replicates.std() > 0.95 * whole.replicates.std()


def test_too_few_samples_are_refused() -> None:
    reference = GaussianStatistics(np.zeros(4), np.eye(4), None)
    samples = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match="at least 20 samples of 4 features, found 19"):
        extrapolated_distance(reference, samples[:19], Estimate(0.0, np.zeros(2)))
    assert np.isfinite(extrapolated_distance(reference, samples, Estimate(0.0, np.zeros(2))).value)


def test_little_bias_is_left_with_as_few_samples_as_are_accepted() -> None:
    dimension, rng = 40, np.random.default_rng(0)
    reference = GaussianStatistics(np.zeros(dimension), np.eye(dimension), None)
    truth = dimension * 0.1**2
    plain, extrapolated = [], []
    for _ in range(30):
        samples = rng.normal(size=(192, dimension)) * 1.1
        distance = frechet_distance(reference, gaussian_statistics(samples))
        plain.append(distance - truth)
        extrapolated.append(extrapolated_distance(reference, samples, Estimate(distance, np.zeros(2))).value - truth)
    assert abs(np.mean(extrapolated)) < 0.12 * np.mean(plain)


def test_fits_of_two_sets_vary_on_their_own_and_by_what_other_subsets_would_give() -> None:
    rng = np.random.default_rng(0)
    reference = GaussianStatistics(np.zeros(4), np.eye(4), None)
    sets = [rng.normal(size=(200, 4)) + 0.5 for _ in range(2)]
    whole = Estimate(1.0, np.ones(500))
    one, other = (extrapolated_distance(reference, samples, whole).replicates for samples in sets)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
    intercepts = [extrapolated_distance(reference, sets[0], whole, seed=seed).value for seed in range(60)]
    assert one.std() == pytest.approx(np.std(intercepts), rel=0.6)


def test_features_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, seen = np.random.default_rng(0).normal(size=(80, 4)), []
    own = extrapolation.gaussian_statistics

    def watch(features: np.ndarray, counts: np.ndarray) -> GaussianStatistics:
        assert features is samples
        seen.append(int(counts.sum()))
        assert counts.max() == 1
        return own(features, counts)

    monkeypatch.setattr(extrapolation, "gaussian_statistics", watch)
    extrapolated_distance(own(samples), samples, Estimate(0.0, np.zeros(2)))
    assert (seen[0], seen[-1], len(seen)) == (80, 40, 15)
