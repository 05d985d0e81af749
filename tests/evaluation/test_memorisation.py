import numpy as np
import pytest

from reals.evaluation import distances
from reals.evaluation.memorisation import nearest_training


@pytest.mark.parametrize("side", [7, 2048])
def test_nearest_images_and_ratios_are_those_of_a_full_search(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", side)
    rng = np.random.default_rng(0)
    training, samples = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(25, 5)).astype(np.float32)
    found = nearest_training(training, samples)
    squared = np.square(samples[:, None].astype(np.float64) - training[None]).sum(-1)
    own = np.sort(np.square(training[:, None].astype(np.float64) - training[None]).sum(-1), axis=1)[:, 1]
    assert np.array_equal(found.index, squared.argmin(1))
    np.testing.assert_allclose(found.ratio, squared.min(1) / own[squared.argmin(1)])


def test_copies_are_found_and_shown_first() -> None:
    rng = np.random.default_rng(0)
    training = rng.normal(size=(50, 16))
    samples = rng.normal(size=(30, 16))
    samples[[4, 9]] = training[[17, 3]] + 0.01 * rng.normal(size=(2, 16))
    found = nearest_training(training, samples)
    assert set(found.nearest_first(2)) == {4, 9}
    assert found.index[[4, 9]].tolist() == [17, 3]
    assert found.copied[[4, 9]].all()
    assert found.copied.mean() < 0.5


def test_a_sample_as_far_away_as_another_training_image_is_no_copy() -> None:
    found = nearest_training(np.array([[0.0], [2.0], [9.0]]), np.array([[4.0], [3.0]]))
    assert found.ratio.tolist() == [1.0, 0.25]
    assert found.copied.tolist() == [False, True]


def test_duplicates_in_the_training_set_hide_no_copy() -> None:
    training = np.concatenate([np.eye(4), np.eye(4)])
    found = nearest_training(training, np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]))
    assert found.ratio.tolist() == [0.0, np.inf]
    assert found.copied.tolist() == [True, False]


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5, 0.0])
def test_nearest_of_many_images_that_are_alike_is_found(spread: float) -> None:
    """Their distances are below float32's rounding, some below float64's."""
    rng = np.random.default_rng(0)
    middle, others = rng.normal(size=16) * 10, rng.normal(size=(50, 16)) * 10

    def alike(count: int) -> np.ndarray:
        return (middle + spread * rng.normal(size=(count, 16))).astype(np.float32)

    training, samples = np.concatenate([others.astype(np.float32), alike(40)]), alike(30)
    found = nearest_training(training, samples)
    squared = np.square(samples[:, None].astype(np.float64) - training).sum(-1)
    own = np.square(training[:, None].astype(np.float64) - training).sum(-1)
    np.fill_diagonal(own, np.inf)
    assert np.array_equal(np.take_along_axis(squared, found.index[:, None], axis=1)[:, 0], squared.min(1))
    if spread > 0:
        np.testing.assert_allclose(found.ratio, squared.min(1) / own.min(1)[found.index], rtol=1e-12)
