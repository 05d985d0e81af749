"""Features on a grid, whose distances float64 computes without any rounding.

Whole numbers are such features, and so is what a network makes of one image in several batches: seen from one of these,
the others differ by a few units of their last digits. Distances tie there, which no bound on an error could tell.
"""

import math

import numpy as np
from jaxtyping import Float

# Of the number of units that a norm may have, for sums of four products of norms to stay below float64's 53 bits.
_BITS = 26
# Below it products underflow.
_SMALLEST = 2.0**-500


def unit_of(items: Float[np.ndarray, "n d"], origin: Float[np.ndarray, " d"], largest: float) -> float:
    """Return a power of two that all numbers are multiples of; 0 where sums of centred items' products are not exact.

    Args:
        items: not centred.
        origin: what they are centred on.
        largest: squared norm of a centred item.
    """
    least = max(math.sqrt(largest) / 2**_BITS, _SMALLEST)
    unit = math.inf
    # Few numbers decide most cases.
    for some in (origin[None], items[:2], items):
        unit = min(unit, _unit(some))
        if unit < least:
            return 0.0
    return unit


def sums_are_exact(unit: float, largest: float, other: float) -> bool:
    """Return whether float64 distances of multiples of ``unit`` are exact, given the largest squared norms."""
    return unit > 0 and math.sqrt(largest) + math.sqrt(other) <= unit * 2**_BITS


def _unit(numbers: np.ndarray) -> float:
    mantissas, exponents = np.frexp(numbers.astype(np.float64))
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    units = np.ldexp((whole & -whole).astype(np.float64), exponents - 53)
    return float(units[whole != 0].min(initial=math.inf))
