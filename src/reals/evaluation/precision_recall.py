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
from reals.evaluation.finite import check_finite
from reals.evaluation.manifold import Advance, Balls, Space, tiles, within
from reals.runtime.progress import progress

NEIGHBOURS = 3
"""``k`` of the paper and of the ADM evaluator; the item itself is not counted."""

COVERAGE_NEIGHBOURS = 5
"""``k`` of density and coverage (Naeem et al., 2020)."""

Arithmetic = Literal["exact", "adm_fp16"]
"""``exact``: every comparison as in float64. ``adm_fp16``: distances rounded to float16 where ADM rounds them."""


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
            return PrecisionRecall(*adm_membership(reference, samples, neighbours, device, shown.advance))
        return _exact(reference, samples, neighbours, Space.around(reference, device), shown.advance)


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
    sample_balls = Balls.of(samples, neighbours, Space.around(samples, space.device), advance)
    reference_inside = torch.zeros(len(reference), dtype=torch.bool, device=space.device)
    sample_inside = torch.zeros(len(samples), dtype=torch.bool, device=space.device)
    # One pass of distances answers both questions.
    for tile in tiles(reference, samples, space, advance):
        known = reference_inside[tile.rows]
        found = within(tile, sample_balls, reference, samples, around_items=False, answered=known)
        known |= found.any(dim=1)
        known = sample_inside[tile.columns]
        found = within(tile, reference_balls, reference, samples, around_items=True, answered=known)
        known |= found.any(dim=0)
    return PrecisionRecall(sample_inside.cpu().numpy(), reference_inside.cpu().numpy())


@dataclass(frozen=True, eq=False)
class DensityCoverage:
    """Per item, so that the bootstrap resamples items while the reference's balls stay fixed."""

    balls: Int[np.ndarray, " samples"]
    """In how many of the reference's balls each sample lies."""
    covered: Bool[np.ndarray, " reference"]
    """Whether each reference item's ball holds a sample; its mean is coverage."""
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
    space = Space.around(reference, device)
    with progress("Density and coverage", 2 * len(reference), "rows") as shown:
        reference_balls = Balls.of(reference, neighbours, space, shown.advance)
        covered = torch.zeros(len(reference), dtype=torch.bool, device=space.device)
        balls = torch.zeros(len(samples), dtype=torch.int64, device=space.device)
        for tile in tiles(reference, samples, space, shown.advance):
            inside = within(tile, reference_balls, reference, samples, around_items=True)
            covered[tile.rows] |= inside.any(dim=1)
            balls[tile.columns] += inside.sum(dim=0)
    return DensityCoverage(balls.cpu().numpy(), covered.cpu().numpy(), neighbours)
