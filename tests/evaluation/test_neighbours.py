"""Nearest neighbours against whole matrices of differences."""

import numpy as np
import pytest
import torch

from reals.evaluation import distances, neighbours
from reals.evaluation.distances import Space
from reals.evaluation.neighbours import Neighbours, nearest_neighbours
from tests.evaluation.rounded_products import round_products


def _found(items: np.ndarray, count: int, *, coarse: bool = False) -> Neighbours:
    return nearest_neighbours(items, count, Space.around(items, "cpu", coarse=coarse), lambda rows: None)


def _clusters(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "grid":
        return rng.integers(0, 3, (150, 4)) + 100.1
    if kind == "isotropic":
        return rng.normal(size=(150, 400)).astype(np.float32)
    if kind == "copies":
        return np.repeat(rng.normal(size=(60, 5)), rng.integers(1, 7, 60), axis=0)
    middles = rng.normal(size=(5, 32)) * 3
    return (middles[rng.integers(0, 5, 150)] + 10.0 ** -float(kind) * rng.normal(size=(150, 32))).astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("kind", ["grid", "isotropic", "copies", "0", "2", "4", "6", "7"])
def test_neighbours_are_those_of_all_differences(kind: str, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", 40)
    round_products(monkeypatch)
    items = _clusters(kind)
    squared = np.square(items[:, None].astype(np.float64) - items[None].astype(np.float64)).sum(-1)
    np.fill_diagonal(squared, np.inf)
    inner, outer = np.sort(squared, axis=1)[:, 2:4].T
    found = _found(items, 3, coarse=coarse)
    np.testing.assert_allclose(found.radii, inner, rtol=1e-12)
    np.testing.assert_allclose(found.outer, outer, rtol=1e-12)
    # Among equally near ones any are right.
    names = np.take_along_axis(squared, found.names, axis=1)
    np.testing.assert_allclose(np.sort(names, axis=1), np.sort(squared, axis=1)[:, :3], rtol=1e-12)
    assert all(len(set(row)) == 3 for row in found.names.tolist())


def test_of_as_few_items_as_neighbours_none_is_next() -> None:
    found = _found(np.array([[0.0], [1.0], [3.0]]), 2)
    assert found.radii.tolist() == found.outer.tolist() == [9.0, 4.0, 9.0]


def test_float32_settles_what_coarse_distances_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are about equally far from one another: more candidates are in question than are kept."""
    round_products(monkeypatch)
    items = np.eye(200, dtype=np.float32) + 1e-3 * np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    searched, search = [], neighbours._search

    def watch(*args: object) -> object:
        searched.append(args[-1])
        return search(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(neighbours, "_search", watch)
    found = _found(items, 3, coarse=True)
    assert [(space.dtype, space.coarse) for space in searched] == [(torch.float32, False)]
    squared = np.square(items[:, None].astype(np.float64) - items).sum(-1)
    np.testing.assert_allclose(found.radii, np.sort(squared, axis=1)[:, 3], rtol=1e-12)


def test_radii_are_exact_where_rounding_swaps_neighbours() -> None:
    """In clusters far apart float32's error is about the gap between one neighbour and the next."""
    rng = np.random.default_rng(0)
    cluster = rng.normal(size=(300, 128)) * 0.3
    for distance in (300.0, 1000.0, 3000.0):
        items = np.concatenate([cluster + distance / 128**0.5, cluster[::-1] * 1.1 - distance / 128**0.5])
        found = _found(items, 3).radii
        exact = np.sort(np.square(items[:, None] - items[None]).sum(-1), axis=1)[:, 3]
        np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_radii_are_exact_where_rounding_swaps_the_last_two_of_a_few() -> None:
    """Small clusters far from the mean, and far from one another: no neighbour is lost, but their order is."""
    rng = np.random.default_rng(0)
    corners = np.unique(rng.integers(-10, 10, (60, 3)), axis=0) * 10.0
    items = (corners[:, None] + rng.normal(size=(len(corners), 5, 3)) * 0.03).reshape(-1, 3)
    found = _found(items, 3).radii
    exact = np.sort(np.square(items[:, None] - items[None]).sum(-1), axis=1)[:, 3]
    np.testing.assert_allclose(found, exact, rtol=1e-9)


@pytest.mark.parametrize("most", [7, 1000])
def test_rows_that_float64_tiles_cannot_settle_are_computed_in_bounded_blocks(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "PAIRS", most)
    sizes, exact = [], distances.exact_distances

    def watch(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found = exact(one, other)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(neighbours, "exact_distances", watch)
    # Far apart and with many ties: more candidates are as near as the neighbour than are kept.
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.integers(0, 2, (40, 3)) * 2.0**-30 + side for side in (-1000.0, 1000.0)])
    radii = _found(items, 9).radii
    expected = np.sort(np.square(items[:, None] - items[None]).sum(-1), axis=1)[:, 9]
    assert np.array_equal(radii, expected)
    assert max(sizes) <= most


def _last_digits(count: int, seed: int = 1) -> np.ndarray:
    """Return what a network might make of two images in many batches: of both each version several times."""
    rng = np.random.default_rng(seed)
    items = np.repeat(np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32), count // 2, axis=0)
    turned = np.arange(count), rng.integers(0, 16, count)
    items[turned] = np.nextafter(items[turned], np.float32(np.inf))
    return items


@pytest.mark.parametrize("coarse", [False, True])
def test_copies_in_tight_clusters_need_few_exact_rows(coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """More copies than neighbours are at no distance, so that a cluster's extent is not a neighbour's distance."""
    round_products(monkeypatch)
    items, rows, by_rows = _last_digits(400), [], neighbours._exact_rows

    def watch(items: np.ndarray, some: np.ndarray, device: torch.device) -> object:
        rows.append(len(some))
        return by_rows(items, some, device)

    monkeypatch.setattr(neighbours, "_exact_rows", watch)
    found = _found(items, 3, coarse=coarse)
    assert sum(rows) <= 8
    squared = np.square(items[:, None].astype(np.float64) - items).sum(-1)
    np.fill_diagonal(squared, np.inf)
    assert np.array_equal(found.radii, np.sort(squared, axis=1)[:, 2])
    assert np.array_equal(found.outer, np.sort(squared, axis=1)[:, 3])
