"""Features of extreme size, made ordinary without changing any comparison of their distances."""

import math

import numpy as np
from jaxtyping import Float

# Squares of these, and of differences a thousand times smaller, are float32 numbers of full precision.
_SMALLEST, _LARGEST = 1e-12, 1e15


def ordinary_scale(
    one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Return two sets as they are or, where float32 squares of them would over- or underflow, times a power of two.

    A power of two rounds nothing: these are float64 numbers, lest small ones among large ones underflow.
    """
    largest = max(float(np.abs(items).max()) for items in (one, other))
    if largest == 0 or not math.isfinite(largest) or _SMALLEST <= largest <= _LARGEST:
        return one, other
    exponent = -math.frexp(largest)[1]
    scaled, others = (np.ldexp(items.astype(np.float64), exponent) for items in (one, other))
    return scaled, others
