import numpy as np
import pytest
from scipy import stats

from reals.latents.analysis.correlation import ranks, spearman


def test_ties_share_their_ranks() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize("decimals", [3, 0])
def test_rho_agrees_with_scipy_with_and_without_ties(decimals: int) -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=25), decimals)
    y = np.round(x + rng.normal(size=25), decimals)
    found = spearman(x, y)
    assert found is not None
    assert found.rho == pytest.approx(stats.spearmanr(x, y)[0])
    assert found.count == 25


def test_the_exact_p_value_of_small_sets() -> None:
    # Of the 24 orders of four items, two have |rho| = 1.
    perfect = spearman(np.arange(4.0), np.array([1.0, 3.0, 9.0, 27.0]))
    assert perfect is not None
    assert (perfect.rho, perfect.p_value) == (pytest.approx(1), pytest.approx(2 / 24))
    falling = spearman(np.arange(5.0), -np.arange(5.0))
    assert falling is not None
    assert (falling.rho, falling.p_value) == (pytest.approx(-1), pytest.approx(2 / 120))


def test_the_p_value_of_larger_sets() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=14)
    y = 0.5 * x + rng.normal(size=14)
    found = spearman(x, y)
    assert found is not None
    assert found.p_value == pytest.approx(stats.spearmanr(x, y)[1], abs=0.03)
    certain = spearman(x, x)
    assert certain is not None
    assert certain.p_value == pytest.approx(1 / 20_001)


def test_where_no_correlation_is_defined() -> None:
    assert spearman(np.arange(2.0), np.arange(2.0)) is None
    assert spearman(np.ones(5), np.arange(5.0)) is None
