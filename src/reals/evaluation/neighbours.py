"""Each item's nearest neighbours in its own set, exact, found among few candidates.

Candidates are searched by tiles of coarse or float32 distances. Items whose neighbours these cannot tell apart, as in
tight clusters, are searched again by finer ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.evaluation import comparing
from reals.evaluation.distances import Advance, Space, blocks, exact_distances, paired_blocks
from reals.evaluation.float32 import float64_device
from reals.runtime import interrupt

PAIRS = 256
"""Pairs whose exact distances are computed together."""

# Candidates kept beyond the k nearest, so that rounding cannot lose the true neighbours.
_SPARE = 5
_COARSE_SPARE = 13
# How far around an item a cluster is looked for, in distances to its last neighbour.
_VICINITY = 16.0
# Distances of a vicinity take about as long as this share of exact rows.
_WORTH_A_VICINITY = 16


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of every item."""

    radii: Float[np.ndarray, " n"]
    """Squared distance to its ``k``-th nearest other item, float64."""
    outer: Float[np.ndarray, " n"]
    """Squared distance to the next one; where there is none, the same."""
    names: Int[np.ndarray, "n k"]
    """The ``k`` nearest."""

    @classmethod
    def unknown(cls, items: int, neighbours: int) -> "Neighbours":
        """Return room for ``items``, to be filled."""
        radii, outer = np.empty((2, items))
        return cls(radii, outer, np.empty((items, neighbours), dtype=np.int64))

    def fill(self, items: Int[np.ndarray, " some"], found: "Neighbours") -> None:
        """Take over what was found for some items."""
        self.radii[items], self.outer[items], self.names[items] = found.radii, found.outer, found.names

    def of(self, which: Bool[np.ndarray, " n"]) -> "Neighbours":
        """Return those of some items."""
        return Neighbours(self.radii[which], self.outer[which], self.names[which])


def nearest_neighbours(items: Float[np.ndarray, "n d"], neighbours: int, space: Space, advance: Advance) -> Neighbours:
    """Return each item's ``neighbours`` nearest other items; ties fall as they may, their distances are exact.

    ``space`` is best centred on the items' own mean: the further away its origin, the more items need a second search.

    Raises:
        ValueError: there are no more than ``neighbours`` items.
    """
    if len(items) <= neighbours:
        raise ValueError(f"{len(items)} items have no {neighbours}-th nearest neighbour")
    everything = doubtful = np.arange(len(items))
    result, finer = Neighbours.unknown(len(items), neighbours), space.finer()
    candidates = _search_all(items, neighbours, space, advance)
    while True:
        found, sure = _settle(items, doubtful, neighbours, candidates, len(items))
        result.fill(doubtful, found)
        doubtful = doubtful[~sure]
        if len(doubtful) == 0 or finer is None:
            break
        candidates = _search(items, doubtful, everything, neighbours, finer)
        finer = finer.finer()
    doubtful = _settle_clusters(items, doubtful, neighbours, space.device, result)
    for rows, distances in _exact_rows(items, doubtful, space.device):
        result.fill(rows, _of_row(distances, rows, neighbours))
    return result


@dataclass(eq=False)
class Candidates:
    """The nearest candidates of every item so far, in ascending order; ties fall as they may."""

    distances: Float[Tensor, "n c"]
    indices: Int[Tensor, "n c"]
    error: float = 0.0
    """Bound on the error of a distance."""

    @classmethod
    def none(cls, count: int, kept: int, space: Space) -> "Candidates":
        """Start with ``kept`` places for each of ``count`` items."""
        distances = torch.full((count, kept), torch.inf, dtype=space.dtype, device=space.device)
        return cls(distances, torch.zeros((count, kept), dtype=torch.int64, device=space.device))

    def offer(self, rows: slice, distances: Float[Tensor, "r c"], columns: slice, error: float) -> None:
        """Take from ``distances`` of items ``rows`` to items ``columns`` what is nearer than before."""
        self.error = max(self.error, error)
        known, names = self.distances[rows], self.indices[rows]
        if torch.isinf(known[0, -1]):
            values, order = distances.topk(min(known.shape[1], distances.shape[1]), dim=1, largest=False)
            found = order + columns.start
        else:
            values, found = _below(distances, known[:, -1:], columns.start)
        self.distances[rows], order = torch.cat([known, values], dim=1).topk(known.shape[1], dim=1, largest=False)
        self.indices[rows] = torch.cat([names, found], dim=1).gather(1, order)


def _below(distances: Tensor, bound: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return the few distances below a row's bound, moved to the left and filled up with infinity; and their columns.

    Sorting whole rows would cost more than computing them.
    """
    rows, columns = comparing.places(comparing.below(distances, bound))
    rows, order = rows.sort(stable=True)
    columns = columns[order]
    counts = torch.bincount(rows, minlength=len(distances))
    slots = comparing.ranks(rows, counts)
    shape = (len(distances), int(counts.max()))
    values = torch.full(shape, torch.inf, dtype=distances.dtype, device=rows.device)
    found = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    values[rows, slots] = distances[rows, columns]
    found[rows, slots] = columns + first
    return values, found


def _kept(neighbours: int, space: Space, others: int) -> int:
    return min(neighbours + (_COARSE_SPARE if space.coarse else _SPARE), others)


def _search_all(items: np.ndarray, neighbours: int, space: Space, advance: Advance) -> Candidates:
    """Return every item's candidates."""
    nearest = Candidates.none(len(items), _kept(neighbours, space, len(items) - 1), space)
    # Distances are symmetric: each pair of blocks is computed once and read along both sides.
    for rows, columns, one, other in paired_blocks(items, items, space.place, advance, symmetric=True):
        tile = space.tile(one, other, rows, columns)
        if rows == columns:
            tile.distances.fill_diagonal_(torch.inf)
        else:
            nearest.offer(tile.columns, tile.distances.T, tile.rows, tile.error)
        nearest.offer(tile.rows, tile.distances, tile.columns, tile.error)
    return nearest


def _search(items: np.ndarray, rows: np.ndarray, among: np.ndarray, neighbours: int, space: Space) -> Candidates:
    """Return the candidates for ``rows`` in ``among``, which is sorted and holds them."""
    nearest = Candidates.none(len(rows), _kept(neighbours, space, len(among) - 1), space)
    places = np.searchsorted(among, rows)
    for some in blocks(len(rows)):
        placed = space.place(items[rows[some]])
        for columns in blocks(len(among)):
            interrupt.stop_if_requested("while comparing features")
            tile = space.tile(placed, space.place(items[among[columns]]), some, columns)
            own = np.flatnonzero((places[some] >= columns.start) & (places[some] < columns.stop))
            tile.distances[own, places[some][own] - columns.start] = torch.inf
            nearest.offer(some, tile.distances, columns, tile.error)
    return Candidates(nearest.distances, torch.from_numpy(among).to(space.device)[nearest.indices], nearest.error)


def _settle(
    items: np.ndarray, rows: np.ndarray, neighbours: int, candidates: Candidates, searched: int
) -> tuple[Neighbours, Bool[np.ndarray, " rows"]]:
    """Return the neighbours of items ``rows`` among their candidates; and of which items they are sure to be nearest.

    Only distances that rounding may have moved past the ``neighbours``-th or the next are computed again. An item is
    not sure where candidates left out of the ``searched`` items might be nearer.
    """
    indices, approximate = candidates.indices.cpu().numpy(), candidates.distances.cpu().double().numpy()
    error, following = candidates.error, min(neighbours, indices.shape[1] - 1)
    nearer = approximate < approximate[:, neighbours - 1 : neighbours] - 2 * error
    further = approximate > approximate[:, following : following + 1] + 2 * error
    exact = np.where(nearer, -np.inf, np.inf)
    close, places = np.nonzero(~(nearer | further))
    device = float64_device(candidates.distances.device)
    for start in range(0, len(close), PAIRS):
        interrupt.stop_if_requested("while comparing features")
        some, others = close[start : start + PAIRS], places[start : start + PAIRS]
        pair = (torch.from_numpy(items[which]).to(device) for which in (rows[some], indices[some, others]))
        exact[some, others] = exact_distances(*pair).cpu().numpy()
    order = np.argsort(exact, axis=1, kind="stable")
    exact = np.take_along_axis(exact, order, axis=1)
    found = Neighbours(
        exact[:, neighbours - 1], exact[:, following], np.take_along_axis(indices, order[:, :neighbours], axis=1)
    )
    complete = indices.shape[1] == searched - 1
    return found, complete | (found.outer == 0) | (approximate[:, -1] - error >= found.outer)


def _settle_clusters(
    items: np.ndarray, doubtful: np.ndarray, neighbours: int, device: torch.device, result: Neighbours
) -> np.ndarray:
    """Fill in the neighbours of doubtful items cluster by cluster, each around one of its own; return whom that leaves.

    What a network makes of one image in several batches differs in the last digits only: such clusters are too tight
    even for float64 around the mean of all. No item outside the vicinity is nearer to one inside than the vicinity's
    reach less the way to its middle.
    """
    while len(doubtful) > 1:
        rows, row = next(_exact_rows(items, doubtful[:1], device))
        result.fill(rows, own := _of_row(row, rows, neighbours))
        away = row[0].cpu().numpy()
        # Where it has many copies, what is nearest of the others.
        reach = float(own.outer[0] or away.min(where=away > 0, initial=away.max())) * _VICINITY**2
        vicinity, inside = np.flatnonzero(away <= reach), doubtful[away[doubtful] <= reach]
        space = Space(items[doubtful[0]], float64_device(device), torch.float64)
        candidates = _search(items, inside, vicinity, neighbours, space)
        found, sure = _settle(items, inside, neighbours, candidates, len(vicinity))
        sure &= np.sqrt(found.outer) + np.sqrt(away[inside]) < np.sqrt(reach) * (1 - 1e-9)
        result.fill(inside[sure], found.of(sure))
        doubtful = np.setdiff1d(doubtful[1:], inside[sure])
        # No clusters: a vicinity for every few of them would cost more than exact rows.
        if _WORTH_A_VICINITY * sure.sum() < len(inside):
            break
    return doubtful


def _of_row(distances: Float[Tensor, "r n"], rows: Int[np.ndarray, " r"], neighbours: int) -> Neighbours:
    """Return items' neighbours from their exact distances to all items."""
    others = distances.clone()
    others[range(len(rows)), rows] = torch.inf
    count = others.shape[1] - 1
    values, names = others.topk(min(neighbours + 1, count), dim=1, largest=False)
    values, names = values.cpu().numpy(), names.cpu().numpy()
    return Neighbours(values[:, neighbours - 1], values[:, -1], names[:, :neighbours])


def _exact_rows(
    items: np.ndarray, rows: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, Float[Tensor, "r n"]]]:
    """Yield some of ``rows`` and their exact distances to all items, computed in blocks of ``PAIRS`` pairs."""
    place, width = float64_device(device), min(len(items), PAIRS)
    for start in range(0, len(rows), PAIRS // width):
        some = rows[start : start + PAIRS // width]
        own, parts = torch.from_numpy(items[some]).to(place)[:, None], []
        for first in range(0, len(items), width):
            interrupt.stop_if_requested("while comparing features")
            parts.append(exact_distances(own, torch.from_numpy(items[first : first + width]).to(place)))
        yield some, torch.cat(parts, dim=1)
