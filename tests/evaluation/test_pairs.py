"""Pairs of points and balls are decided exactly, and seldom one by one."""

import numpy as np
import pytest
import torch

from reals.evaluation import pairs
from reals.evaluation.precision_recall import density_coverage, precision_recall
from tests.evaluation.rounded_products import round_products


def _set(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    modes = np.random.default_rng(99).normal(size=(2, 48))
    items = modes[np.arange(300) % 2]
    if kind == "outlier":
        items = rng.normal(size=(300, 48))
        items[seed] *= 1e9
    if kind == "two clusters":
        items = items + 1e-7 * rng.normal(size=(300, 48))
    if kind == "whole numbers":
        items = rng.integers(0, 2, (300, 48)).astype(np.float64)
    items = items.astype(np.float64 if kind == "two clusters in float64" else np.float32)
    if kind == "two clusters in float64":
        items += 1e-13 * rng.normal(size=(300, 48))
    if kind == "last digits":
        turned = np.arange(300), rng.integers(0, 8, 300)
        items[turned] = np.nextafter(items[turned], np.float32(np.inf))
    return items


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    "kind", ["outlier", "two clusters", "two clusters in float64", "whole numbers", "last digits", "equal"]
)
def test_few_pairs_are_decided_by_differences(kind: str, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if coarse:
        round_products(monkeypatch)
    monkeypatch.setattr(pairs, "_MANY_PAIRS", 1000)
    decided, by_differences = [], pairs._by_differences

    def watch(items: np.ndarray, centres: np.ndarray, rows: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        decided.append(len(rows))
        return by_differences(items, centres, rows, *others)

    monkeypatch.setattr(pairs, "_by_differences", watch)
    reference, samples = _set(kind, 1), _set(kind, 2)
    found, others = precision_recall(reference, samples), density_coverage(reference, samples)
    assert sum(decided) <= 9000
    one, other = reference.astype(np.float64), samples.astype(np.float64)
    own, theirs, across = (np.square(a[:, None] - b).sum(-1) for a, b in ((one, one), (other, other), (one, other)))
    inside = across <= np.sort(own, axis=1)[:, 3:4]
    assert np.array_equal(found.sample_inside, inside.any(0))
    assert np.array_equal(found.reference_inside, (across <= np.sort(theirs, axis=1)[:, 3]).any(1))
    assert np.array_equal(others.balls, (across <= np.sort(own, axis=1)[:, 5:6]).sum(0))
