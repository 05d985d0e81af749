"""Improved precision and recall (Kynkäänniemi et al., 2019), exact, as the ADM evaluator defines them.

A manifold is the union of balls around a set's items, each reaching to its ``k``-th nearest neighbour in its own set.
Precision is the share of samples inside the reference's manifold, recall the share of the reference inside the
samples'. Distances are squared and ties count as inside. ADM computes distances in float16 on a GPU, which moves
recall by 0.001-0.003; here every comparison is decided in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reals.runtime import interrupt
from reals.runtime.progress import progress

NEIGHBOURS = 3
"""``k`` of the paper and of the ADM evaluator; the item itself is not counted."""

_BLOCK = 1024
# The expansion |u|² - 2uv + |v|² is off by a few roundings of |u|² + |v|²; pairs closer to the radius than this bound
# are decided by summing squared differences, which is exact for ties and equal items.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Membership of every item, so that the bootstrap resamples items while both manifolds stay fixed."""

    sample_inside: Bool[np.ndarray, " samples"]
    """Whether each sample lies inside the reference's manifold; its mean is precision."""
    reference_inside: Bool[np.ndarray, " reference"]
    """Whether each reference item lies inside the samples' manifold; its mean is recall."""

    @property
    def precision(self) -> float:
        """Share of the samples that look like the reference."""
        return float(self.sample_inside.mean())

    @property
    def recall(self) -> float:
        """Share of the reference that the samples cover."""
        return float(self.reference_inside.mean())


def precision_recall(
    reference: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], *, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Measure which samples lie in the reference's manifold and the reverse; memory is one block of rows.

    Raises:
        ValueError: a set has no more than ``neighbours`` items.
    """
    for name, items in (("reference", reference), ("samples", samples)):
        if len(items) <= neighbours:
            raise ValueError(f"{name}: {len(items)} items have no {neighbours}-th nearest neighbour")
    # Distances do not change under a common shift, and rounding errors shrink with the norms.
    origin = reference.astype(np.float64).mean(0)
    a, b = (np.ascontiguousarray(items.astype(np.float64) - origin) for items in (reference, samples))
    with progress("Precision and recall", 2 * (len(a) + len(b)), "rows") as shown:
        radius_a = _radii(a, neighbours, shown.advance)
        radius_b = _radii(b, neighbours, shown.advance)
        sample_inside = _inside(b, a, radius_a, shown.advance)
        reference_inside = _inside(a, b, radius_b, shown.advance)
    return PrecisionRecall(sample_inside, reference_inside)


def _squared_distances(rows: np.ndarray, others: np.ndarray, other_norms: np.ndarray) -> np.ndarray:
    norms = np.einsum("ij,ij->i", rows, rows)
    distances = rows @ others.T
    distances *= -2.0
    distances += norms[:, None]
    distances += other_norms
    return distances


def _radii(items: np.ndarray, neighbours: int, advance: Callable[[int], None]) -> np.ndarray:
    """Return each item's squared distance to its ``neighbours``-th nearest other item."""
    norms = np.einsum("ij,ij->i", items, items)
    # A few candidates more than needed, so that rounding in the expansion cannot lose the true neighbour.
    candidates = min(neighbours + 5, len(items) - 1)
    radii = np.empty(len(items))
    for start in range(0, len(items), _BLOCK):
        interrupt.stop_if_requested("while measuring precision and recall")
        block = items[start : start + _BLOCK]
        distances = _squared_distances(block, items, norms)
        distances[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        nearest = np.argpartition(distances, candidates - 1, axis=1)[:, :candidates]
        exact = np.square(items[nearest] - block[:, None]).sum(axis=2)
        radii[start : start + len(block)] = np.sort(exact, axis=1)[:, neighbours - 1]
        advance(len(block))
    return radii


def _inside(items: np.ndarray, centres: np.ndarray, radii: np.ndarray, advance: Callable[[int], None]) -> np.ndarray:
    """Return whether each item is in a ball around a centre: squared distance <= squared radius."""
    norms = np.einsum("ij,ij->i", centres, centres)
    largest = norms.max()
    inside = np.zeros(len(items), dtype=bool)
    for start in range(0, len(items), _BLOCK):
        interrupt.stop_if_requested("while measuring precision and recall")
        block = items[start : start + _BLOCK]
        excess = _squared_distances(block, centres, norms)
        excess -= radii
        tolerance = _ROUNDING * (np.square(block).sum(axis=1, keepdims=True) + largest)
        found = (excess < -tolerance).any(axis=1)
        rows, columns = np.nonzero((excess <= tolerance) & ~found[:, None])
        for row, column in zip(rows, columns, strict=True):
            if not found[row]:
                found[row] = np.square(centres[column] - block[row]).sum() <= radii[column]
        inside[start : start + len(block)] = found
        advance(len(block))
    return inside
