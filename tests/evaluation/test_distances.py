"""Tiles of distances are as near to the truth as they claim."""

import numpy as np
import pytest
import torch

from reals.evaluation.distances import Space, coarse_pays, exact_distances
from reals.evaluation.float32 import coarse_products_are_faster
from tests.evaluation.rounded_products import round_products


def _error_and_bound(one: np.ndarray, other: np.ndarray, space: Space) -> tuple[float, float]:
    tile = space.tile(space.place(one), space.place(other), slice(0, len(one)), slice(0, len(other)))
    exact = exact_distances(torch.from_numpy(one)[:, None], torch.from_numpy(other))
    return float((tile.distances - exact).abs().max()), tile.error


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_no_distance_is_further_from_the_truth_than_its_bound(
    spread: float, coarse: bool, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At worst all numbers lie halfway between two of bfloat16, and all roundings go one way."""
    if rounded:
        round_products(monkeypatch)
    rng = np.random.default_rng(0)
    halfway = np.float32(1 + 2.0**-8)
    one, other = (halfway * sign + spread * rng.normal(size=(40, 512)).astype(np.float32) for sign in (1, -1))
    space = Space(np.zeros(512, np.float32), torch.device("cpu"), coarse=coarse)
    error, bound = _error_and_bound(one, other, space)
    assert error <= bound
    norms = np.square(one).sum(1).max() + np.square(other).sum(1).max()
    assert bound <= norms * (2.0**-6.9 if coarse else 2.0**-13)
    if coarse and rounded:
        assert error > 0.02 * bound
        assert error > 10 * _error_and_bound(one, other, space.finer() or space)[0]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("size", [1e-17, 1e-20, 1e-23, 1e-30])
def test_bounds_hold_where_squares_underflow(size: float, coarse: bool) -> None:
    """One feature is large and the same for all."""
    items = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32) * np.float32(size)
    items[:, 0] = 1
    error, bound = _error_and_bound(items, items, Space.around(items, "cpu", coarse=coarse))
    assert error <= bound < 1e-30


def test_bounds_hold_for_halves() -> None:
    """Centred in float16, large numbers would overflow and small ones be rounded."""
    items = np.random.default_rng(0).normal(size=(50, 16)).clip(-2, 2).astype(np.float16) * np.float16(30_000)
    error, bound = _error_and_bound(items, items, Space.around(items, "cpu"))
    assert error <= bound < 1e-4 * 4 * 16 * 30_000**2


@pytest.mark.parametrize("coarse", [False, True])
def test_items_far_away_do_not_loosen_the_bounds_of_others(coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    round_products(monkeypatch)
    items = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    items[7] *= 1e4
    space = Space(np.zeros(32, np.float32), torch.device("cpu"), coarse=coarse)
    tile = space.tile(space.place(items), space.place(items), slice(0, 60), slice(0, 60))
    rows, columns = (index.flatten() for index in np.indices((60, 60)))
    bounds = tile.errors(torch.from_numpy(rows), torch.from_numpy(columns))
    assert isinstance(bounds, torch.Tensor)
    exact = exact_distances(torch.from_numpy(items[rows]), torch.from_numpy(items[columns]))
    assert ((tile.distances.flatten() - exact).abs() <= bounds).all()
    assert float(bounds.max()) <= tile.error * (1 + 1e-6)
    assert float(bounds.median()) < tile.error * (1e-2 if coarse else 1e-6)


def test_each_finer_space_is_nearer_to_the_truth_and_float64_the_last() -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(50, 64)).astype(np.float32)
    space, bounds = Space.around(items, "cpu", coarse=True), []
    while space is not None:
        error, bound = _error_and_bound(items, items, space)
        assert error <= bound
        bounds.append(bound)
        space = space.finer()
    assert len(bounds) == 3
    assert bounds[0] > 10 * bounds[1] > 1e6 * bounds[2] > 0


def test_coarse_products_are_for_large_sets_on_a_processor_that_has_them() -> None:
    large = np.broadcast_to(np.float32(0), (10_000, 2048))
    assert coarse_pays(large, large, "cpu") == coarse_products_are_faster()
    assert not coarse_pays(large, large, "cuda")
    assert not coarse_pays(large[:100], large[:100], "cpu")


def test_coarse_products_change_no_setting() -> None:
    before = torch.get_float32_matmul_precision()
    items = np.ones((4, 8), np.float32)
    space = Space.around(items, "cpu", coarse=True)
    space.tile(space.place(items), space.place(items), slice(0, 4), slice(0, 4))
    coarse_products_are_faster()
    assert torch.get_float32_matmul_precision() == before


def test_exact_distances_have_the_same_bits_in_any_batch() -> None:
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(rng.normal(size=(50, 37)).astype(np.float32)) for _ in range(2))
    together = exact_distances(one[:, None], other)
    assert torch.equal(together, exact_distances(other[:, None], one).T)
    apart = [exact_distances(one[row], other[column]) for row in range(50) for column in range(50)]
    assert torch.equal(together.flatten(), torch.stack(apart))
    torch.testing.assert_close(together, torch.cdist(one.double(), other.double()).square())
