"""Squared distances between two sets of features, tile by tile, each tile with a bound on its error.

Tiles are computed by ``|u|² - 2uv + |v|²``. Whatever a tile's error leaves open is decided by finer arithmetic, at last
by sums of squared differences in float64, which are exact for ties and equal items. So coarse arithmetic costs nothing
but time: where few pairs are open, products of bfloat16 numbers are as good as any.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reals.evaluation.float32 import ALONE, coarse_products, coarse_products_are_faster, float64_device, true_float32
from reals.evaluation.grid import sums_are_exact, unit_of
from reals.evaluation.slices import slices
from reals.runtime import interrupt

Advance = Callable[[int], None]
"""Told how many rows of one set are done."""

Block = TypeVar("Block")
"""A block of items where it is computed with."""

SIDE = 640
"""Height and width of a tile; 1280 was measured to be 6 % slower on a CPU: more of a set's pairs are computed twice."""

# Of centres that stay placed, rather than being placed anew for every block of items: 128 MiB in float32.
_KEPT_NUMBERS = 2**25
# Multiplications from which on it pays to measure how fast coarse ones are.
_WORTH_MEASURING = 1e10


@dataclass(frozen=True, eq=False)
class Sizes:
    """What the error of centred items' distances depends on."""

    squared_norms: Float[Tensor, " n"]
    largest: float
    """Of the squared norms."""
    rounding: float
    """Bound on the error of a distance, over the sum of two squared norms."""
    lost: float = 0.0
    """The largest norm of what coarse products lose of an item by rounding it."""
    underflow: float = 0.0
    """What a sum of products may lose to numbers too small for the arithmetic."""

    def bound(self, other: "Sizes", square: float | Tensor, other_square: float | Tensor) -> float | Tensor:
        """Return how wrong distances may be between some of these and some others, given their squared norms."""
        underflow = max(self.underflow, other.underflow)
        # (u + e)(v + f) - uv, by Cauchy and Schwarz. What rounding loses is known, and a quarter of what it might.
        norm, other_norm = (square + underflow) ** 0.5, (other_square + underflow) ** 0.5
        lost = norm * other.lost + other_norm * self.lost + self.lost * other.lost
        return (self.rounding * (square + other_square) + 2.0 * lost) * (1 + 1e-3) + 8.0 * underflow


@dataclass(frozen=True, eq=False)
class Placed:
    """Centred items on the device."""

    items: Float[Tensor, "n d"]
    sizes: Sizes
    unit: float = 0.0
    """What all numbers are multiples of, where that makes float64 sums exact; else 0."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Approximate squared distances of some items to some centres."""

    rows: slice
    columns: slice
    distances: Float[Tensor, "r c"]
    error: float
    """Bound on the error of each distance, and of a threshold rounded to float32."""
    sizes: tuple[Sizes, Sizes] | None = None
    """Of the items and the centres; None of a tile without error."""

    def errors(self, rows: Int[Tensor, " p"], columns: Int[Tensor, " p"]) -> Float[Tensor, " p"] | float:
        """Return the same bound for some pairs: smaller, where another item of the tile lies far away."""
        if self.sizes is None:
            return self.error
        one, other = self.sizes
        return one.bound(other, one.squared_norms[rows], other.squared_norms[columns])


@dataclass(frozen=True)
class Space:
    """Where and around what point distances are computed, and how finely: rounding errors shrink with the norms."""

    origin: Float[np.ndarray, " d"]
    device: torch.device
    dtype: torch.dtype = torch.float32
    coarse: bool = False
    """Whether products are of numbers rounded to bfloat16; sums are float32's."""

    @classmethod
    def around(cls, items: Float[np.ndarray, "n d"], device: torch.device | str, *, coarse: bool = False) -> "Space":
        """Centre on the mean of ``items``."""
        origin = items.mean(axis=0, dtype=np.float64).astype(np.result_type(items, np.float32))
        return cls(origin, torch.device(device), coarse=coarse)

    def finer(self) -> "Space | None":
        """Return the same in finer arithmetic, in float64 on the CPU where the device has none; None: there is none."""
        if self.coarse:
            return replace(self, coarse=False)
        if self.dtype == torch.float64:
            return None
        return replace(self, device=float64_device(self.device), dtype=torch.float64)

    def place(self, items: Float[np.ndarray, "n d"]) -> Placed:
        """Return items as they are computed with."""
        # Halves and whole numbers have no arithmetic of their own that would do.
        wide = np.float64 if self.dtype == torch.float64 else np.result_type(items, self.origin, np.float32)
        centred = torch.from_numpy(np.subtract(items, self.origin, dtype=wide)).to(self.dtype).to(self.device)
        squares = self._squared_norms(centred)
        largest = float(squares.max())
        tiny = 0.0 if largest == 0 and not centred.any() else torch.finfo(self.dtype).tiny * (len(self.origin) + 1)
        # A dot product's worst case is one rounding per dimension, a norm's as well; the rest is room for the sums and
        # the centring.
        rounding = (2 * len(self.origin) + 20) * torch.finfo(self.dtype).eps / 2
        lost = 0.0
        if self.coarse:
            lost = math.hypot(float(torch.linalg.vector_norm(centred - centred.bfloat16(), dim=1).max()), tiny**0.5)
        unit = unit_of(items, self.origin, largest) if self.dtype == torch.float64 else 0.0
        return Placed(centred, Sizes(squares, largest, rounding, lost, tiny), unit)

    def _squared_norms(self, centred: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        if self.dtype == torch.float64:
            # No root, which would round what is exact on a grid.
            return centred.square().sum(dim=1)
        return torch.linalg.vector_norm(centred, dim=1).square()

    def tile(self, items: Placed, centres: Placed, rows: slice, columns: slice) -> Tile:
        """Return the distances of placed items to placed centres."""
        one, other = items.sizes, centres.sizes
        distances = one.squared_norms[:, None] + other.squared_norms
        with ALONE, coarse_products() if self.coarse else true_float32():
            distances.addmm_(items.items, centres.items.T, alpha=-2.0)
        if sums_are_exact(min(items.unit, centres.unit), one.largest, other.largest):
            return Tile(rows, columns, distances, error=0.0)
        error = float(one.bound(other, one.largest, other.largest))
        return Tile(rows, columns, distances, error, (one, other))


def coarse_pays(one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"], device: torch.device | str) -> bool:
    """Return whether coarse products are the faster way to compare two sets here; results do not depend on it."""
    # On GPUs bfloat16 products are faster too, but how their sums are rounded is not specified.
    if torch.device(device).type != "cpu" or float(len(one)) * len(other) * one.shape[1] < _WORTH_MEASURING:
        return False
    return coarse_products_are_faster()


def exact_distances(one: Float[Tensor, "... d"], other: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Return squared distances of rows, broadcast, as sums of squared differences in float64.

    Halves are added, so that a pair's distance has the same bits in any batch and on any device, and ties stay ties.
    """
    squares = (one.double() - other).square_()
    while squares.shape[-1] > 1:
        half = (squares.shape[-1] + 1) // 2
        upper, squares = squares[..., half:], squares[..., :half]
        squares[..., : upper.shape[-1]] += upper
    return squares[..., 0]


def blocks(count: int) -> Iterator[slice]:
    """Yield the sides of tiles of ``count`` items."""
    return slices(count, SIDE)


def tiles(
    items: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], space: Space, advance: Advance
) -> Iterator[Tile]:
    """Yield every tile of the distances of ``items`` to ``centres``."""
    for rows, columns, one, other in paired_blocks(items, centres, space.place, advance):
        yield space.tile(one, other, rows, columns)


def paired_blocks(
    items: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "m d"],
    place: Callable[[np.ndarray], Block],
    advance: Advance,
    *,
    symmetric: bool = False,
) -> Iterator[tuple[slice, slice, Block, Block]]:
    """Yield every pair of a block of ``items`` and one of ``centres``, as slices and placed, in true float32.

    Of one set against itself, ``symmetric``, each pair comes once, whichever of its blocks is first.
    """
    sides = list(blocks(len(centres)))
    with true_float32():
        kept = [place(centres[columns]) for columns in sides[: _KEPT_NUMBERS // (SIDE * centres.shape[1])]]
        for turn, rows in enumerate(blocks(len(items))):
            placed = kept[turn] if symmetric and turn < len(kept) else place(items[rows])
            for number, columns in enumerate(sides):
                if symmetric and number < turn:
                    continue
                interrupt.stop_if_requested("while comparing features")
                yield rows, columns, placed, kept[number] if number < len(kept) else place(centres[columns])
            advance(rows.stop - rows.start)
