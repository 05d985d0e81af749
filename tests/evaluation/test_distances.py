"""Tiles of distances are as near to the truth as they claim."""

import numpy as np
import pytest
import torch

from reals.evaluation import distances
from reals.evaluation.distances import Space, coarse_pays
from reals.evaluation.float32 import coarse_products_are_faster
from tests.evaluation.rounded_products import round_products


def _error_and_bound(one: np.ndarray, other: np.ndarray, space: Space) -> tuple[float, float]:
    tile = space.tile(space.place(one), space.place(other), slice(0, len(one)), slice(0, len(other)))
    exact = distances.exact_distances(torch.from_numpy(one)[:, None], torch.from_numpy(other))
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
    together = distances.exact_distances(one[:, None], other)
    assert torch.equal(together, distances.exact_distances(other[:, None], one).T)
    apart = [distances.exact_distances(one[row], other[column]) for row in range(50) for column in range(50)]
    assert torch.equal(together.flatten(), torch.stack(apart))
    torch.testing.assert_close(together, torch.cdist(one.double(), other.double()).square())
