"""Squared distances between two sets of features, tile by tile, and comparisons that no rounding decides.

Tiles of distances are computed in float32 by ``|u|² - 2uv + |v|²``. A tile's error is bounded; pairs closer to a
threshold than the bound are decided again by summing squared differences in float64, which is exact for ties and equal
items. Items whose neighbours float32 cannot tell apart, as in tight clusters, are searched again by float64 tiles.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.evaluation import comparing
from reals.evaluation.float32 import float64_device, true_float32
from reals.evaluation.removal import DECIDED
from reals.evaluation.slices import slices
from reals.runtime import interrupt

Advance = Callable[[int], None]
"""Told how many rows of one set are done."""

Placed = TypeVar("Placed")
"""A block where it is computed with."""

SIDE = 640
"""Height and width of a tile; 1280 was measured to be 6 % slower on a CPU: more of a set's pairs are computed twice."""

# Of centres that stay placed, rather than being placed anew for every block of items: 128 MiB in float32.
_KEPT_NUMBERS = 2**25
# Candidates kept beyond the k nearest, so that float32's rounding cannot lose the true neighbour.
_SPARE = 5
# Pairs decided together by their differences in float64; of a tile, above which a tile in float64 is cheaper.
_PAIRS = 256
_MANY_PAIRS = 8192
# How far around an item a cluster is looked for, in distances to its neighbour.
_VICINITY = 16.0


@dataclass(frozen=True, eq=False)
class Tile:
    """Approximate squared distances of some items to some centres."""

    rows: slice
    columns: slice
    distances: Float[Tensor, "r c"]
    error: float
    """Bound on the error of each distance, and of a threshold rounded to float32."""


@dataclass(frozen=True)
class Space:
    """Where and around what point distances are computed: rounding errors shrink with the norms."""

    origin: Float[np.ndarray, " d"]
    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def around(cls, items: Float[np.ndarray, "n d"], device: torch.device | str) -> "Space":
        """Centre on the mean of ``items``."""
        return cls(items.mean(axis=0, dtype=np.float64).astype(items.dtype), torch.device(device))

    def finer(self) -> "Space":
        """Return the same in float64, on the CPU where the device has none."""
        return replace(self, device=float64_device(self.device), dtype=torch.float64)

    def place(self, items: Float[np.ndarray, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Return centred items on the device, and their squared norms."""
        if self.dtype == torch.float64:
            items = items.astype(np.float64, copy=False)
        centred = torch.from_numpy(items - self.origin).to(self.dtype).to(self.device)
        return centred, torch.linalg.vector_norm(centred, dim=1).square()

    def tile(
        self,
        items: tuple[Tensor, Tensor],
        centres: tuple[Tensor, Tensor],
        rows: slice,
        columns: slice,
    ) -> Tile:
        """Return the distances of placed items to placed centres."""
        distances = items[1][:, None] + centres[1]
        distances.addmm_(items[0], centres[0].T, alpha=-2.0)
        largest = float(items[1].max() + centres[1].max())
        # A dot product's worst case is one rounding per dimension, a norm's as well; the rest is room for the sums and
        # the centring.
        rounding = torch.finfo(self.dtype).eps / 2
        return Tile(rows, columns, distances, (2 * items[0].shape[1] + 16) * rounding * largest)


def exact_distances(one: Float[Tensor, "... d"], other: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Return squared distances of rows, broadcast, as sums of squared differences in float64.

    Halves are added, so that a pair's distance has the same bits in any batch and on any device, and ties stay ties.
    """
    squares = (one.double() - other.double()).square_()
    while squares.shape[-1] > 1:
        half = (squares.shape[-1] + 1) // 2
        upper, squares = squares[..., half:], squares[..., :half]
        squares[..., : upper.shape[-1]] += upper
    return squares[..., 0]


def tiles(
    items: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], space: Space, advance: Advance
) -> Iterator[Tile]:
    """Yield every tile of the distances of ``items`` to ``centres``."""
    for rows, columns, one, other in paired_blocks(items, centres, space.place, advance):
        yield space.tile(one, other, rows, columns)


def paired_blocks(
    items: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "m d"],
    place: Callable[[np.ndarray], Placed],
    advance: Advance,
    *,
    symmetric: bool = False,
) -> Iterator[tuple[slice, slice, Placed, Placed]]:
    """Yield every pair of a block of ``items`` and one of ``centres``, as slices and placed, in true float32.

    Of one set against itself, ``symmetric``, each pair comes once, whichever of its blocks is first.
    """
    blocks = list(slices(len(centres), SIDE))
    with true_float32():
        kept = [place(centres[columns]) for columns in blocks[: _KEPT_NUMBERS // (SIDE * centres.shape[1])]]
        for turn, rows in enumerate(slices(len(items), SIDE)):
            placed = kept[turn] if symmetric and turn < len(kept) else place(items[rows])
            for number, columns in enumerate(blocks):
                if symmetric and number < turn:
                    continue
                interrupt.stop_if_requested("while comparing features")
                yield rows, columns, placed, kept[number] if number < len(kept) else place(centres[columns])
            advance(rows.stop - rows.start)


def neighbour_radii(
    items: Float[np.ndarray, "n d"], neighbours: int, space: Space, advance: Advance
) -> Float[np.ndarray, " n"]:
    """Return each item's squared distance, exact in float64, to its ``neighbours``-th nearest other item.

    ``space`` is best centred on the items' own mean: the further away its origin, the more items need a second search.

    Raises:
        ValueError: there are no more than ``neighbours`` items.
    """
    return _neighbourhoods(items, neighbours, space, advance)[0]


def _neighbourhoods(items: np.ndarray, neighbours: int, space: Space, advance: Advance) -> tuple[np.ndarray, "Nearest"]:
    """Return the radii, and the candidates that they were found among."""
    if len(items) <= neighbours:
        raise ValueError(f"{len(items)} items have no {neighbours}-th nearest neighbour")
    everything = np.arange(len(items))
    nearest, error = _search_all(items, neighbours, space, advance)
    radii, doubtful = _settle(items, everything, neighbours, nearest, error, len(items))
    if len(doubtful) > 0:
        found = _search(items, doubtful, everything, neighbours, space.finer())
        radii[doubtful], doubtful = _settle(items, doubtful, neighbours, *found, len(items))
    doubtful = _settle_clusters(items, doubtful, neighbours, space.device, radii)
    for rows, distances in _exact_rows(items, doubtful, space.device):
        radii[rows] = _kth(distances, neighbours)
    return radii, nearest


def _settle_clusters(
    items: np.ndarray, doubtful: np.ndarray, neighbours: int, device: torch.device, radii: np.ndarray
) -> np.ndarray:
    """Fill in the radii of doubtful items cluster by cluster, each around one of its own; return whom that leaves.

    What a network makes of one image in several batches differs in the last digits only: such clusters are too tight
    even for float64 around the mean of all. No item outside the vicinity is nearer to one inside than the vicinity's
    reach less the way to its middle.
    """
    while len(doubtful) > 1:
        _, row = next(_exact_rows(items, doubtful[:1], device))
        away, radius = row[0].cpu().numpy(), _kth(row, neighbours)[0]
        radii[doubtful[0]] = radius
        vicinity = np.flatnonzero(away <= radius * _VICINITY**2)
        inside = doubtful[away[doubtful] <= radius * _VICINITY**2]
        space = Space(items[doubtful[0]], device).finer()
        found = _search(items, inside, vicinity, neighbours, space)
        own, unsettled = _settle(items, inside, neighbours, *found, len(vicinity))
        reached = np.sqrt(own) + np.sqrt(away[inside]) < _VICINITY * radius**0.5 * (1 - 1e-9)
        settled = reached & ~np.isin(inside, unsettled)
        radii[inside[settled]] = own[settled]
        doubtful = np.setdiff1d(doubtful[1:], inside[settled])
        # No clusters: one at a time, a vicinity each, would cost more than exact rows.
        if 2 * settled.sum() < len(inside):
            break
    return doubtful


def _kth(distances: Float[Tensor, "r n"], neighbours: int) -> Float[np.ndarray, " r"]:
    """Return items' radii from their distances to all items; the nearest is the item itself."""
    return distances.kthvalue(neighbours + 1, dim=1).values.cpu().numpy()


def _search_all(items: np.ndarray, neighbours: int, space: Space, advance: Advance) -> tuple["Nearest", float]:
    """Return every item's nearest candidates, and a bound on the error of their distances."""
    nearest = Nearest.empty(len(items), min(neighbours + _SPARE, len(items) - 1), space.device)
    largest = 0.0
    # Distances are symmetric: each pair of blocks is computed once and read along both sides.
    for rows, columns, one, other in paired_blocks(items, items, space.place, advance, symmetric=True):
        tile = space.tile(one, other, rows, columns)
        largest = max(largest, tile.error)
        if rows == columns:
            tile.distances.fill_diagonal_(torch.inf)
        else:
            nearest.offer(tile.columns, tile.distances.T, tile.rows)
        nearest.offer(tile.rows, tile.distances, tile.columns)
    return nearest, largest


def _search(
    items: np.ndarray, rows: np.ndarray, among: np.ndarray, neighbours: int, space: Space
) -> tuple["Nearest", float]:
    """Return the candidates for ``rows`` in ``among``, which is sorted and holds them; and a bound on the error."""
    nearest = Nearest.empty(len(rows), min(neighbours + _SPARE, len(among) - 1), space.device, space.dtype)
    largest, places = 0.0, np.searchsorted(among, rows)
    for some in slices(len(rows), SIDE):
        placed = space.place(items[rows[some]])
        for columns in slices(len(among), SIDE):
            interrupt.stop_if_requested("while comparing features")
            tile = space.tile(placed, space.place(items[among[columns]]), some, columns)
            largest = max(largest, tile.error)
            own = np.flatnonzero((places[some] >= columns.start) & (places[some] < columns.stop))
            tile.distances[own, places[some][own] - columns.start] = torch.inf
            nearest.offer(some, tile.distances, columns)
    return Nearest(nearest.distances, torch.from_numpy(among).to(space.device)[nearest.indices]), largest


@dataclass(eq=False)
class Nearest:
    """The nearest candidates of every item so far, in ascending order; ties fall as they may."""

    distances: Float[Tensor, "n k"]
    indices: Int[Tensor, "n k"]

    @classmethod
    def empty(cls, count: int, kept: int, device: torch.device, dtype: torch.dtype = torch.float32) -> "Nearest":
        """Start with ``kept`` places for each of ``count`` items."""
        distances = torch.full((count, kept), torch.inf, dtype=dtype, device=device)
        return cls(distances, torch.zeros((count, kept), dtype=torch.int64, device=device))

    def offer(self, rows: slice, distances: Float[Tensor, "r c"], columns: slice) -> None:
        """Take from ``distances`` of items ``rows`` to items ``columns`` what is nearer than before."""
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
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (len(distances), int(counts.max()))
    values = torch.full(shape, torch.inf, dtype=distances.dtype, device=rows.device)
    found = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    values[rows, slots] = distances[rows, columns]
    found[rows, slots] = columns + first
    return values, found


def _settle(
    items: np.ndarray, rows: np.ndarray, neighbours: int, nearest: Nearest, error: float, searched: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the radii of items ``rows`` from the exact distances of their candidates; and the items that need more.

    Only distances that rounding may have moved past the ``neighbours``-th are computed again. An item needs more where
    candidates left out of the ``searched`` items might be nearer.
    """
    indices, approximate = nearest.indices.cpu().numpy(), nearest.distances.cpu().double().numpy()
    middle = approximate[:, neighbours - 1 : neighbours]
    exact = np.where(approximate < middle, -np.inf, np.inf)
    close, places = np.nonzero(np.abs(approximate - middle) <= 2 * error)
    device = float64_device(nearest.distances.device)
    for start in range(0, len(close), _PAIRS):
        interrupt.stop_if_requested("while comparing features")
        some, others = close[start : start + _PAIRS], places[start : start + _PAIRS]
        pair = (torch.from_numpy(items[which]).to(device) for which in (rows[some], indices[some, others]))
        exact[some, others] = exact_distances(*pair).cpu().numpy()
    radii = np.sort(exact, axis=1)[:, neighbours - 1]
    complete = indices.shape[1] == searched - 1
    doubtful = (not complete) & (radii > 0) & (approximate[:, -1] - 2 * error < radii)
    return radii, rows[doubtful]


def _exact_rows(
    items: np.ndarray, rows: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, Float[Tensor, "r n"]]]:
    """Yield some of ``rows`` and their exact distances to all items, computed in blocks of ``_PAIRS`` pairs."""
    place, width = float64_device(device), min(len(items), _PAIRS)
    for start in range(0, len(rows), _PAIRS // width):
        some = rows[start : start + _PAIRS // width]
        own, parts = torch.from_numpy(items[some]).to(place)[:, None], []
        for first in range(0, len(items), width):
            interrupt.stop_if_requested("while comparing features")
            parts.append(exact_distances(own, torch.from_numpy(items[first : first + width]).to(place)))
        yield some, torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False)
class Balls:
    """A ball around every item of a set, reaching to one of its neighbours."""

    radii: Float[np.ndarray, " n"]
    """Squared."""
    rounded: Float[Tensor, " n"]
    """The same in float32, on the device."""
    names: Int[Tensor, "n k"]
    """The neighbours that each ball reaches to, as float32 ranks them."""
    outer: Float[Tensor, " n"]
    """Squared distance to the next neighbour, in float32: how far a ball would reach without one of these."""

    @classmethod
    def of(cls, items: Float[np.ndarray, "n d"], neighbours: int, space: Space, advance: Advance) -> "Balls":
        """Measure the balls that reach to each item's ``neighbours``-th nearest other item."""
        radii, nearest = _neighbourhoods(items, neighbours, space, advance)
        rounded = torch.from_numpy(radii).float().to(space.device)
        # Of as few items as a ball has neighbours none is left to reach to.
        outer = nearest.distances[:, neighbours] if nearest.distances.shape[1] > neighbours else rounded
        return cls(radii, rounded, nearest.indices[:, :neighbours], outer)


def within(
    tile: Tile,
    balls: Balls,
    items: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "m d"],
    *,
    around_items: bool,
    known: Int[Tensor, " points"] | None = None,
) -> Bool[Tensor, "r c"]:
    """Return which pairs of a tile are at most a ball's radius apart, deciding doubtful pairs in float64.

    Args:
        tile: of distances of ``items`` to ``centres``.
        balls: of all items, or of all centres.
        items: all of them.
        centres: all of them.
        around_items: whether the balls are the items', so that centres are the points asked about.
        known: in how many balls each point is known to lie. Given, doubtful pairs of points that lie in ``DECIDED``
            balls anyway are not decided.
    """
    radii = balls.rounded[tile.rows] if around_items else balls.rounded[tile.columns]
    inside = comparing.at_most(tile.distances, (radii[:, None] if around_items else radii) + tile.error)
    rows, columns = comparing.places(inside)
    own = rows if around_items else columns
    # Few pairs are that near: what follows is of these alone.
    doubtful = tile.distances[rows, columns] > radii[own] - tile.error
    inside[rows[doubtful], columns[doubtful]] = False
    if known is not None:
        points = columns if around_items else rows
        sure = known + torch.bincount(points[~doubtful], minlength=len(known)).int()
        doubtful &= sure[points] < DECIDED
    if doubtful.any():
        pairs = rows[doubtful], columns[doubtful]
        exact = torch.from_numpy(balls.radii[tile.rows if around_items else tile.columns])[own[doubtful].cpu()]
        inside[pairs] = _decide(items[tile.rows], centres[tile.columns], pairs, exact).to(inside.device)
    return inside


def _decide(
    items: Float[np.ndarray, "r d"],
    centres: Float[np.ndarray, "c d"],
    pairs: tuple[Int[Tensor, " p"], Int[Tensor, " p"]],
    radii: Float[Tensor, " p"],
) -> Bool[Tensor, " p"]:
    """Return which pairs are at most a radius apart, in float64."""
    device = float64_device(pairs[0].device)
    rows, columns, radii = pairs[0].to(device), pairs[1].to(device), radii.to(device)
    inside = torch.zeros(len(rows), dtype=torch.bool, device=device)
    undecided = torch.arange(len(rows), device=device)
    if len(rows) > _MANY_PAIRS:
        space = Space.around(items, device).finer()
        tile = space.tile(space.place(items), space.place(centres), slice(0, len(items)), slice(0, len(centres)))
        distances = tile.distances[rows, columns]
        inside = distances <= radii - tile.error
        undecided = ((distances <= radii + tile.error) & ~inside).nonzero().squeeze(1)
    own, others = (torch.from_numpy(some).to(device) for some in (items, centres))
    for some in undecided.split(_PAIRS):
        inside[some] = exact_distances(own[rows[some]], others[columns[some]]) <= radii[some]
    return inside
