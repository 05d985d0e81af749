"""The one check that every number behind a metric is a number."""

import numpy as np
from jaxtyping import Float


def check_finite(numbers: Float[np.ndarray, "..."], name: str = "") -> None:
    """Check features, or sums of them; ``name`` says whose.

    Raises:
        ValueError: a number is infinite or none.
    """
    if not np.isfinite(numbers).all():
        whose = f"{name}: " if name else ""
        raise ValueError(f"{whose}features are not finite: the network or the images are broken")
