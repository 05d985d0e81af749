"""Squared distances between two sets of features, tile by tile, and comparisons that no rounding decides.

Tiles of distances are computed in float32 by ``|u|² - 2uv + |v|²``. A tile's error is bounded; pairs closer to a
threshold than the bound are decided again by summing squared differences in float64, which is exact for ties and equal
items. Memory is a few tiles, whatever the number of items.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.evaluation.float32 import true_float32
from reals.evaluation.removal import DECIDED
from reals.runtime import interrupt

Advance = Callable[[int], None]
"""Told how many rows of one set are done."""

SIDE = 1280
"""Height and width of a tile; 2048 and 1024 were measured to be 6 % and 3 % slower on a CPU."""

# Candidates kept beyond the k nearest, so that float32's rounding cannot lose the true neighbour.
_SPARE = 5
# Pairs decided together in float64.
_PAIRS = 2048
_EPSILON = 2.0**-24


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

    @classmethod
    def around(cls, items: Float[np.ndarray, "n d"], device: torch.device | str) -> "Space":
        """Centre on the mean of ``items``."""
        return cls(items.mean(axis=0, dtype=np.float64).astype(items.dtype), torch.device(device))

    def place(self, items: Float[np.ndarray, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Return centred items in float32 on the device, and their squared norms."""
        centred = torch.from_numpy((items - self.origin).astype(np.float32, copy=False)).to(self.device)
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
        return Tile(rows, columns, distances, (2 * items[0].shape[1] + 16) * _EPSILON * largest)


def tiles(
    items: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], space: Space, advance: Advance
) -> Iterator[Tile]:
    """Yield every tile of the distances of ``items`` to ``centres``."""
    with true_float32():
        for rows in _slices(len(items)):
            placed = space.place(items[rows])
            for columns in _slices(len(centres)):
                interrupt.stop_if_requested("while comparing features")
                yield space.tile(placed, space.place(centres[columns]), rows, columns)
            advance(rows.stop - rows.start)


def neighbour_radii(
    items: Float[np.ndarray, "n d"], neighbours: int, space: Space, advance: Advance
) -> Float[np.ndarray, " n"]:
    """Return each item's squared distance, exact in float64, to its ``neighbours``-th nearest other item.

    Raises:
        ValueError: there are no more than ``neighbours`` items.
    """
    return _neighbourhoods(items, neighbours, space, advance)[0]


def _neighbourhoods(items: np.ndarray, neighbours: int, space: Space, advance: Advance) -> tuple[np.ndarray, "Nearest"]:
    """Return the radii, and the candidates that they were found among."""
    if len(items) <= neighbours:
        raise ValueError(f"{len(items)} items have no {neighbours}-th nearest neighbour")
    nearest = Nearest.empty(len(items), min(neighbours + _SPARE, len(items) - 1), space.device)
    largest = 0.0
    with true_float32():
        for rows in _slices(len(items)):
            placed = space.place(items[rows])
            # Distances are symmetric: each pair of blocks is computed once and read along both sides.
            for columns in _slices(len(items), rows.start):
                interrupt.stop_if_requested("while comparing features")
                tile = space.tile(placed, space.place(items[columns]), rows, columns)
                largest = max(largest, tile.error)
                if rows == columns:
                    tile.distances.fill_diagonal_(torch.inf)
                else:
                    nearest.offer(tile.columns, tile.distances.T, tile.rows)
                nearest.offer(tile.rows, tile.distances, tile.columns)
            advance(rows.stop - rows.start)
    return _exact_radii(items, neighbours, nearest, largest), nearest


def _slices(count: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, count, SIDE):
        yield slice(first, min(first + SIDE, count))


@dataclass(eq=False)
class Nearest:
    """The nearest candidates of every item so far, in ascending order; ties fall as they may."""

    distances: Float[Tensor, "n k"]
    indices: Int[Tensor, "n k"]

    @classmethod
    def empty(cls, count: int, kept: int, device: torch.device) -> "Nearest":
        """Start with ``kept`` places for each of ``count`` items."""
        distances = torch.full((count, kept), torch.inf, device=device)
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
    rows, columns = (distances < bound).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(distances))
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (len(distances), int(counts.max()))
    values = torch.full(shape, torch.inf, device=rows.device)
    found = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    values[rows, slots] = distances[rows, columns]
    found[rows, slots] = columns + first
    return values, found


def _exact_radii(items: np.ndarray, neighbours: int, nearest: Nearest, error: float) -> np.ndarray:
    """Sort the candidates by exact distance; search again where candidates left out might be nearer.

    Only distances that rounding may have moved past the ``neighbours``-th are computed again.
    """
    indices, approximate = nearest.indices.cpu().numpy(), nearest.distances.double().cpu().numpy()
    middle = approximate[:, neighbours - 1 : neighbours]
    exact = np.where(approximate < middle, -np.inf, np.inf)
    rows, columns = np.nonzero(np.abs(approximate - middle) <= 2 * error)
    for start in range(0, len(rows), _PAIRS):
        some, others = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        differences = items[indices[some, others]].astype(np.float64) - items[some].astype(np.float64)
        exact[some, others] = np.square(differences).sum(axis=1)
    radii = np.sort(exact, axis=1)[:, neighbours - 1]
    complete = indices.shape[1] == len(items) - 1
    doubtful = (not complete) & (radii > 0) & (approximate[:, -1] - 2 * error < radii)
    for row in np.flatnonzero(doubtful):
        interrupt.stop_if_requested("while comparing features")
        radii[row] = np.partition(_exact_row(items, int(row)), neighbours)[neighbours]
    return radii


def _exact_row(items: np.ndarray, row: int) -> np.ndarray:
    own = items[row].astype(np.float64)
    blocks = [items[some].astype(np.float64) - own for some in _slices(len(items))]
    return np.concatenate([np.square(block).sum(axis=1) for block in blocks])


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
    radii = balls.rounded[tile.rows, None] if around_items else balls.rounded[tile.columns]
    inside = tile.distances <= radii - tile.error
    doubtful = (tile.distances <= radii + tile.error) & ~inside
    if known is not None:
        axis = 0 if around_items else 1
        doubtful &= (known + inside.sum(dim=axis, dtype=torch.int32) < DECIDED).unsqueeze(axis)
    rows, columns = doubtful.nonzero(as_tuple=True)
    for start in range(0, len(rows), _PAIRS):
        some, others = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        item, centre = some.cpu().numpy() + tile.rows.start, others.cpu().numpy() + tile.columns.start
        differences = items[item].astype(np.float64) - centres[centre].astype(np.float64)
        decided = np.square(differences).sum(axis=1) <= balls.radii[item if around_items else centre]
        inside[some, others] = torch.from_numpy(decided).to(inside.device)
    return inside
