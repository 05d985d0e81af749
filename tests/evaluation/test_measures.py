"""What is resampled together with what: roles, pairs, and the other set's share of every interval."""

import numpy as np
import pytest

from reals.evaluation.bootstrap import mean_estimate, resampling_counts
from reals.evaluation.extras import kernel_distance, more_estimates
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.evaluation.kernel_distance import kernel_inception_distance
from reals.evaluation.measures import Gaussian, Judged, Settings, measure
from reals.evaluation.precision_recall import density_coverage, precision_recall

_REPLICATES = 150


class Four:
    """Never called."""

    name = "four"
    dimension = 4
    fingerprint = "4" * 64
    resize = "none"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        raise AssertionError


def _judged(features: np.ndarray) -> Judged:
    return Judged(features, {"fd/four": Gaussian(gaussian_statistics(features), features)}, "/four")


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(200, 4)) * [1, 1, 2, 3]
    return originals, originals * [0.8, 1, 1.1, 0.7] + rng.normal(size=(200, 4)) * 0.3 + [0.5, 0, 0, 0]


def test_a_paired_distance_varies_as_when_pairs_are_resampled() -> None:
    originals, others = _pairs()
    settings = Settings(replicates=_REPLICATES, paired=True)
    found = measure(_judged(originals), _judged(others), Four(), settings)["fd/four"].replicates
    counts = [resampling_counts(200, replicate) for replicate in range(_REPLICATES)]
    resampled = [
        frechet_distance(gaussian_statistics(originals, count), gaussian_statistics(others, count)) for count in counts
    ]
    assert np.corrcoef(found, resampled)[0, 1] > 0.97
    assert found.std() == pytest.approx(np.std(resampled), rel=0.15)


def test_a_paired_kernel_distance_varies_as_when_pairs_are_resampled() -> None:
    originals, others = _pairs()
    # Far apart, so that the part of first order is nearly all.
    others = others + 2.0
    settings = Settings(replicates=_REPLICATES, paired=True)
    estimate = kernel_distance(_judged(originals), _judged(others), settings)["kd/four"]
    found = estimate.replicates

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 4 + 1) ** 3

    across = kernel(originals, others)
    pairs = kernel(originals, originals) + kernel(others, others) - across - across.T
    np.fill_diagonal(pairs, 0)
    assert estimate.value == pytest.approx(pairs.sum() / (200 * 199), rel=1e-5)
    counts = [resampling_counts(200, replicate) for replicate in range(_REPLICATES)]
    resampled = [count @ pairs @ count / (200 * 199) for count in counts]
    assert np.corrcoef(found, resampled)[0, 1] > 0.97
    assert found.std() == pytest.approx(np.std(resampled), rel=0.1)


def test_likeness_of_partners_does_not_lower_a_paired_kernel_distance() -> None:
    """Reconstructions of a few images are as far from them on average as from others."""
    rng = np.random.default_rng(0)
    apart, paired, careless = [], [], []
    for _ in range(60):
        one, other = np.abs(rng.normal(size=(2, 30, 16)))
        noise = 0.1 * rng.normal(size=(30, 16)) + 0.2
        apart.append(kernel_inception_distance(one, other + noise).value)
        paired.append(kernel_inception_distance(one, one + noise, paired=True).value)
        careless.append(kernel_inception_distance(one, one + noise).value)
    error = np.std(apart) / 60**0.5
    assert np.mean(paired) == pytest.approx(np.mean(apart), abs=3 * error)
    assert np.mean(careless) < np.mean(apart) - 5 * error
    with pytest.raises(ValueError, match="equally large, found 30 and 29"):
        kernel_inception_distance(np.ones((30, 2)), np.ones((29, 2)), paired=True)


def test_each_set_is_resampled_in_its_own_role() -> None:
    originals, others = _pairs()
    reference, samples = originals[:150], others
    settings = Settings(replicates=20)
    known = measure(_judged(reference), _judged(samples), Four(), settings)
    found = known | more_estimates(_judged(reference), _judged(samples), known, settings)[0]
    manifolds, dense = precision_recall(reference, samples), density_coverage(reference, samples)
    for name, values, role, influence, other in (
        ("precision", manifolds.sample_inside, "samples", manifolds.reference_influence, "reference"),
        ("recall", manifolds.reference_inside, "reference", manifolds.sample_influence, "samples"),
        ("density", dense.balls / 5, "samples", dense.reference_influence, "reference"),
        ("coverage", dense.covered, "reference", dense.sample_influence, "samples"),
    ):
        expected = mean_estimate(values, replicates=20, role=role, more={other: influence})
        assert found[f"{name}/four"].value == expected.value
        np.testing.assert_allclose(found[f"{name}/four"].replicates, expected.replicates)
        assert np.abs(influence).max() > 0


def test_pairs_are_resampled_together_in_shares_too() -> None:
    originals, others = _pairs()
    found = measure(_judged(originals), _judged(others), Four(), Settings(replicates=20, paired=True))
    manifolds = precision_recall(originals, others)
    expected = mean_estimate(
        manifolds.reference_inside, replicates=20, role="samples", more={"samples": manifolds.sample_influence}
    )
    np.testing.assert_allclose(found["recall/four"].replicates, expected.replicates)
