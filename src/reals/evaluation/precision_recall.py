"""Improved precision and recall (Kynkäänniemi et al., 2019) as the ADM evaluator defines them; density and coverage.

A manifold is the union of balls around a set's items, each reaching to its ``k``-th nearest neighbour in its own set.
Precision is the share of samples inside the reference's manifold, recall the share of the reference inside the
samples'. Distances are squared and ties count as inside. ADM computes distances in float16 on a GPU, which moves
recall by 0.001-0.003; by default every comparison is decided in float64 here, and ``"adm_fp16"`` imitates ADM.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from reals.evaluation.adm_distances import adm_membership
from reals.evaluation.distances import Advance, Space, coarse_pays, tiles
from reals.evaluation.finite import check_finite
from reals.evaluation.pairs import Balls, exactly, near_pairs
from reals.evaluation.removal import Removals, without_noise
from reals.evaluation.scale import ordinary_scale
from reals.runtime.progress import progress

NEIGHBOURS = 3
"""``k`` of the paper and of the ADM evaluator; the item itself is not counted."""

COVERAGE_NEIGHBOURS = 5
"""``k`` of density and coverage (Naeem et al., 2020)."""

Arithmetic = Literal["exact", "adm_fp16"]
"""``exact``: every comparison as in float64. ``adm_fp16``: distances rounded to float16 where ADM rounds them."""


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Membership of every item, and how both shares move with the items that the manifolds are made of."""

    sample_inside: Bool[np.ndarray, " samples"]
    """Whether each sample lies inside the reference's manifold; its mean is precision."""
    reference_inside: Bool[np.ndarray, " reference"]
    """Whether each reference item lies inside the samples' manifold; its mean is recall."""
    reference_influence: Float[np.ndarray, " reference"]
    """How precision moves with each reference item's weight (see :mod:`reals.evaluation.removal`)."""
    sample_influence: Float[np.ndarray, " samples"]
    """How recall moves with each sample's weight."""

    @property
    def precision(self) -> float:
        """Share of the samples that look like the reference."""
        return float(self.sample_inside.mean())

    @property
    def recall(self) -> float:
        """Share of the reference that the samples cover."""
        return float(self.reference_inside.mean())


def precision_recall(
    reference: Float[np.ndarray, "n d"],
    samples: Float[np.ndarray, "m d"],
    *,
    neighbours: int = NEIGHBOURS,
    arithmetic: Arithmetic = "exact",
    device: torch.device | str = "cpu",
) -> PrecisionRecall:
    """Measure which samples lie in the reference's manifold and the reverse; memory is a few tiles of distances.

    Raises:
        ValueError: a set has no more than ``neighbours`` items, or a feature that is not finite.
    """
    _check(reference, samples, neighbours)
    with progress("Precision and recall", 2 * len(reference) + len(samples), "rows") as shown:
        if arithmetic == "adm_fp16":
            return _result(*adm_membership(reference, samples, neighbours, device, shown.advance))
        reference, samples = ordinary_scale(reference, samples)
        space = Space.around(reference, device, coarse=coarse_pays(reference, samples, device))
        return _exact(reference, samples, neighbours, space, shown.advance)


def _check(reference: np.ndarray, samples: np.ndarray, neighbours: int) -> None:
    for name, items in (("reference", reference), ("samples", samples)):
        if len(items) <= neighbours:
            raise ValueError(f"{name}: {len(items)} items have no {neighbours}-th nearest neighbour")
        check_finite(items.sum(axis=0, dtype=np.float64), name)


def _exact(
    reference: np.ndarray, samples: np.ndarray, neighbours: int, space: Space, advance: Advance
) -> PrecisionRecall:
    reference_balls = Balls.of(reference, neighbours, space, advance)
    # Distances inside a set do not depend on the origin, their rounding does: samples may lie close together, far away.
    own_space = Space.around(samples, space.device, coarse=space.coarse)
    sample_balls = Balls.of(samples, neighbours, own_space, advance)
    recall, precision = Removals.of(len(reference), space.device), Removals.of(len(samples), space.device)
    # One pass of distances answers both questions.
    for tile in tiles(reference, samples, space, advance):
        rows, columns = tile.rows, tile.columns
        decide = exactly(reference[rows], samples[columns], space)
        found = near_pairs(tile, sample_balls, decide, around_rows=False, known=recall.counts[rows])
        recall.add(rows, columns, found)
        found = near_pairs(tile, reference_balls, decide, around_rows=True, known=precision.counts[columns])
        precision.add(columns, rows, found)
    return _result(precision, reference_balls.names, recall, sample_balls.names)


def _result(
    precision: Removals, reference_names: np.ndarray, recall: Removals, sample_names: np.ndarray
) -> PrecisionRecall:
    return PrecisionRecall(
        (precision.counts > 0).cpu().numpy(),
        (recall.counts > 0).cpu().numpy(),
        precision.influence(len(reference_names), reference_names),
        recall.influence(len(sample_names), sample_names),
    )


@dataclass(frozen=True, eq=False)
class DensityCoverage:
    """Per item, and how each number moves with the items of the other set."""

    balls: Int[np.ndarray, " samples"]
    """In how many of the reference's balls each sample lies."""
    covered: Bool[np.ndarray, " reference"]
    """Whether each reference item's ball holds a sample; its mean is coverage."""
    reference_influence: Float[np.ndarray, " reference"]
    """How density moves with each reference item's weight."""
    sample_influence: Float[np.ndarray, " samples"]
    """How coverage moves with each sample's weight."""
    neighbours: int

    @property
    def density(self) -> float:
        """Balls around a sample over ``neighbours``: about 1 where samples are as dense as the reference."""
        return float(self.balls.mean()) / self.neighbours

    @property
    def coverage(self) -> float:
        """Share of the reference that has a sample nearby."""
        return float(self.covered.mean())


def density_coverage(
    reference: Float[np.ndarray, "n d"],
    samples: Float[np.ndarray, "m d"],
    *,
    neighbours: int = COVERAGE_NEIGHBOURS,
    device: torch.device | str = "cpu",
) -> DensityCoverage:
    """Measure density and coverage (Naeem et al., 2020, equations 5 and 7), robust to outliers where precision is not.

    Only the reference has balls, so a sample far away cannot raise a score. Comparisons are exact, ties inside.

    Raises:
        ValueError: a set has no more than ``neighbours`` items, or a feature that is not finite.
    """
    _check(reference, samples, neighbours)
    reference, samples = ordinary_scale(reference, samples)
    space = Space.around(reference, device, coarse=coarse_pays(reference, samples, device))
    with progress("Density and coverage", 2 * len(reference), "rows") as shown:
        reference_balls = Balls.of(reference, neighbours, space, shown.advance)
        coverage = Removals.of(len(reference), space.device)
        balls = torch.zeros(len(samples), dtype=torch.int64, device=space.device)
        gained = torch.zeros(len(reference), dtype=torch.int64, device=space.device)
        for tile in tiles(reference, samples, space, shown.advance):
            decide = exactly(reference[tile.rows], samples[tile.columns], space)
            near = near_pairs(tile, reference_balls, decide, around_rows=True)
            coverage.add(tile.rows, tile.columns, near.turned(), remember=False)
            balls[tile.columns] += torch.bincount(near.points[near.inside], minlength=tile.distances.shape[1])
            gained[tile.rows] += torch.bincount(near.balls[~near.inside], minlength=tile.distances.shape[0])
    hits = coverage.counts.cpu().numpy()
    return DensityCoverage(
        balls.cpu().numpy(),
        hits > 0,
        _density_influence(hits, gained.cpu().numpy(), reference_balls.names, len(samples)),
        coverage.influence(len(samples)),
        neighbours,
    )


def _density_influence(hits: np.ndarray, gained: np.ndarray, names: np.ndarray, samples: int) -> np.ndarray:
    """Return how density moves with each reference item.

    Args:
        hits: samples in each ball.
        gained: samples between a ball's radius and its next neighbour, which it takes in without one of its neighbours.
        names: those neighbours.
        samples: how many there are.
    """
    gains = np.zeros(len(hits))
    for column in names.T:
        np.add.at(gains, column, gained)
    size = names.shape[1] * samples
    change = (hits - gains) / size
    noise = ((hits + gains) / size**2 - np.square(change) / samples).sum()
    return len(hits) * without_noise(change, float(noise))
