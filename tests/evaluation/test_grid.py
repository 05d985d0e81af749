"""Where distances on a grid are exact, and where they are not."""

import numpy as np
import pytest
import torch

from reals.evaluation.distances import Space, Tile, exact_distances
from reals.evaluation.grid import sums_are_exact, unit_of


def _tile(items: np.ndarray, origin: np.ndarray) -> Tile:
    space = Space(origin, torch.device("cpu"), torch.float64)
    return space.tile(space.place(items), space.place(items), slice(0, len(items)), slice(0, len(items)))


@pytest.mark.parametrize("unit", [2.0**-140, 1.0, 2.0**90])
def test_the_unit_is_the_largest(unit: float) -> None:
    items = np.array([[12.0, -4.0, 0.0]]) * unit
    assert unit_of(items, items[0] * 2, 160.0 * unit**2) == 4 * unit
    assert unit_of(items, items[0] + unit, 1.0) in (0.0, unit)
    assert unit_of(items, items[0] / 3, 160.0 * unit**2) == 0.0


def test_large_numbers_of_units_and_tiny_units_are_not_exact() -> None:
    assert sums_are_exact(1.0, 2.0**50, 2.0**50)
    assert not sums_are_exact(1.0, 2.0**52, 1.0)
    assert not sums_are_exact(0.0, 0.0, 0.0)
    assert unit_of(np.array([[1.0, 2.0**-30]]), np.zeros(2), 1.0) == 0.0
    assert unit_of(np.array([[2.0**-600]]), np.zeros(1), 2.0**-1200) == 0.0


@pytest.mark.parametrize("kind", ["whole", "last digits", "equal"])
def test_distances_on_a_grid_have_no_error(kind: str) -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(size=300).astype(np.float32)
    items = np.repeat(middle[None], 50, axis=0)
    if kind == "whole":
        items = rng.integers(-1000, 1000, (50, 300)).astype(np.float32)
    if kind == "last digits":
        items = np.where(rng.random((50, 300)) < 0.1, np.nextafter(items, np.float32(np.inf)), items)
    tile = _tile(items, items[0])
    assert tile.error == 0
    assert tile.errors(torch.arange(2), torch.arange(2)) == 0
    assert torch.equal(tile.distances, exact_distances(torch.from_numpy(items)[:, None], torch.from_numpy(items)))


def test_numbers_that_vanish_by_centring_are_no_grid() -> None:
    """One less a tiny number is one, also in float64."""
    items = np.array([[1e-30], [2e-30], [1.0]], np.float32)
    assert _tile(items, np.ones(1, np.float32)).error > 0
