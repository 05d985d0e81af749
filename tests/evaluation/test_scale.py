import numpy as np

from reals.evaluation.scale import ordinary_scale


def test_small_numbers_beside_large_ones_are_not_rounded() -> None:
    large, small = np.array([[2.0**100, 0.0]], np.float32), np.array([[3e-30, 1e-40]], np.float32)
    one, other = ordinary_scale(large, small)
    assert 0 < one[0, 0] <= 1
    assert np.array_equal(other / one[0, 0], small.astype(np.float64) / 2.0**100)


def test_ordinary_features_stay_as_they_are() -> None:
    one, other = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert all(found is given for found, given in zip(ordinary_scale(one, other), (one, other), strict=True))
