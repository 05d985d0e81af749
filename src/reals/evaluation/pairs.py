"""Which points lie in which balls of a tile, decided as in exact arithmetic; kept as the few pairs that they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.evaluation import comparing
from reals.evaluation.distances import Advance, Space, Tile, exact_distances
from reals.evaluation.float32 import float64_device
from reals.evaluation.neighbours import PAIRS, nearest_neighbours
from reals.evaluation.removal import DECIDED, Pairs
from reals.runtime import interrupt

# Of a tile, above which a finer tile is cheaper than exact distances.
_MANY_PAIRS = 8192

Decide = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Told rows, columns and bounds [bound, pair], returns which pairs are at most each of their bounds apart."""


@dataclass(frozen=True, eq=False)
class Balls:
    """A ball around every item of a set, reaching to one of its neighbours."""

    radii: Float[Tensor, " n"]
    """Squared."""
    outer: Float[Tensor, " n"]
    """Squared, to the next neighbour: how far a ball would reach without one of its neighbours."""
    names: Int[np.ndarray, "n k"]
    """The neighbours that each ball reaches to."""

    @classmethod
    def of(cls, items: Float[np.ndarray, "n d"], neighbours: int, space: Space, advance: Advance) -> "Balls":
        """Measure the balls that reach to each item's ``neighbours``-th nearest other item; radii are float64."""
        found = nearest_neighbours(items, neighbours, space, advance)
        place = float64_device(space.device)
        return cls(torch.from_numpy(found.radii).to(place), torch.from_numpy(found.outer).to(place), found.names)


def near_pairs(
    tile: Tile,
    balls: Balls,
    decide: Decide | None = None,
    *,
    around_rows: bool,
    known: Int[Tensor, " points"] | None = None,
) -> Pairs:
    """Return the pairs of a tile.

    Args:
        tile: of distances.
        balls: of all rows, or of all columns.
        decide: decides pairs that the tile's error leaves open; a tile without error needs none.
        around_rows: whether the balls are the rows', so that columns are the points asked about.
        known: in how many balls each point is known to lie. Given, nothing is said of points that lie in ``DECIDED``.
    """
    which = tile.rows if around_rows else tile.columns
    radii, outer = (
        bounds[which].to(tile.distances.dtype).to(tile.distances.device) for bounds in (balls.radii, balls.outer)
    )
    near = comparing.at_most(tile.distances, (outer[:, None] if around_rows else outer) + tile.error)
    # Few pairs are that near: what follows is of these alone.
    rows, columns = comparing.places(near)
    if known is not None:
        open_points = known[columns if around_rows else rows] < DECIDED
        rows, columns = rows[open_points], columns[open_points]
    distances = tile.distances[rows, columns]
    points, own = (columns, rows) if around_rows else (rows, columns)
    bounds, errors = torch.stack([radii[own], outer[own]]), tile.errors(rows, columns)
    within, doubtful = comparing.within_bounds(distances, bounds, errors)
    if known is not None:
        sure = known + torch.bincount(points[within[0]], minlength=len(known))
        needed = sure[points] < DECIDED
        doubtful &= needed
        within[1] &= needed | within[0]
    if decide is not None and doubtful.any():
        exact = torch.stack([balls.radii[which], balls.outer[which]])[:, own[doubtful].to(balls.radii.device)]
        within[:, doubtful] = decide(rows[doubtful], columns[doubtful], exact).to(within.device)
    return Pairs(points, own, within[0]).of(within[1])


def exactly(items: Float[np.ndarray, "r d"], centres: Float[np.ndarray, "c d"], space: Space) -> Decide:
    """Return what decides pairs of rows and columns of a tile that was computed in ``space``."""

    def decide(
        rows: Int[Tensor, " p"], columns: Int[Tensor, " p"], bounds: Float[Tensor, "b p"], space: Space = space
    ) -> Bool[Tensor, "b p"]:
        if len(rows) <= _MANY_PAIRS:
            return _by_differences(items, centres, rows, columns, bounds)
        finer = space.finer()
        if finer is None:
            return _by_clusters(items, centres, rows, columns, bounds, space)
        # Around their own mean the error is smaller; where few lie far away, around what has most pairs.
        last = finer.finer() is None
        around = items[int(torch.bincount(rows).argmax())] if last else Space.around(items, finer.device).origin
        finer = replace(finer, origin=around)
        within, doubtful = _by_tile(items, centres, rows, columns, bounds, finer)
        if doubtful.any():
            left = doubtful.to(rows.device)
            within[:, doubtful] = decide(rows[left], columns[left], bounds[:, doubtful], finer)
        return within

    return decide


def _by_tile(
    items: np.ndarray, centres: np.ndarray, rows: Tensor, columns: Tensor, bounds: Float[Tensor, "b p"], space: Space
) -> tuple[Bool[Tensor, "b p"], Bool[Tensor, " p"]]:
    """Return which pairs are within each of their bounds, and of which pairs the tile of all does not tell."""
    tile = space.tile(space.place(items), space.place(centres), slice(0, len(items)), slice(0, len(centres)))
    places = rows.to(space.device), columns.to(space.device)
    distances, errors = tile.distances[places].to(bounds), tile.errors(*places)
    if isinstance(errors, Tensor):
        errors = errors.to(bounds)
    return comparing.within_bounds(distances, bounds, errors)


def _by_clusters(
    items: np.ndarray, centres: np.ndarray, rows: Tensor, columns: Tensor, bounds: Float[Tensor, "b p"], space: Space
) -> Bool[Tensor, "b p"]:
    """Decide pairs by tiles of those near one item, around it, while that pays; at last one by one.

    Clusters may be too tight for float64 around the mean of all, or hold ties, which are decided on a grid only.
    """
    within, left = torch.zeros_like(bounds, dtype=torch.bool), torch.arange(len(rows), device=rows.device)
    while len(left) > _MANY_PAIRS:
        middle = int(torch.bincount(rows[left]).argmax())
        near = torch.zeros(len(centres), dtype=torch.bool, device=rows.device)
        near[columns[left][rows[left] == middle]] = True
        turns = near[columns[left]].nonzero()[:, 0]
        some = left[turns]
        own, row = rows[some].unique(return_inverse=True)
        others, column = columns[some].unique(return_inverse=True)
        few = items[own.cpu().numpy()], centres[others.cpu().numpy()]
        chosen = some.to(bounds.device)
        found, doubtful = _by_tile(*few, row, column, bounds[:, chosen], replace(space, origin=items[middle]))
        decided = ~doubtful
        within[:, chosen[decided]] = found[:, decided]
        kept = torch.ones_like(left, dtype=torch.bool)
        kept[turns[decided.to(turns.device)]] = False
        left = left[kept]
        if int(decided.sum()) < max(_MANY_PAIRS // 4, len(own) * len(others) // 16, 1):
            break
    place = left.to(bounds.device)
    within[:, place] = _by_differences(items, centres, rows[left], columns[left], bounds[:, place])
    return within


def _by_differences(
    items: np.ndarray, centres: np.ndarray, rows: Tensor, columns: Tensor, bounds: Float[Tensor, "b p"]
) -> Bool[Tensor, "b p"]:
    own, others = (torch.from_numpy(some).to(bounds.device) for some in (items, centres))
    rows, columns, parts = rows.to(bounds.device), columns.to(bounds.device), [bounds[:, :0] > 0]
    for some, other, bound in zip(rows.split(PAIRS), columns.split(PAIRS), bounds.split(PAIRS, dim=1), strict=True):
        interrupt.stop_if_requested("while comparing features")
        parts.append(exact_distances(own[some], others[other]) <= bound)
    return torch.cat(parts, dim=1)
