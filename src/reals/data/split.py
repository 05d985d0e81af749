"""Which photos are held out, decided by each photo's own name."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from reals.runtime.errors import UserError


def is_held_out(key: str, fraction: float) -> bool:
    """Return whether the image named ``key`` belongs to the held-out ``fraction`` (in [0, 1)).

    The first 8 bytes of SHA-256(key), read as a number in [0, 1), are compared with ``fraction``: the answer never
    changes when other images come or go, and raising the fraction only adds to the held-out images.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64


def held_out_mask(keys: Sequence[str], fraction: float, where: str) -> np.ndarray:
    """Return a bool per key, true where :func:`is_held_out`.

    Raises:
        UserError: ``fraction`` is outside [0, 1), or these keys leave one side without an image; the message says how
            many images make that unlikely (less than one time in a hundred).
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"held-out fraction {fraction:g} is not in [0, 1): give 0.05, say, or 0 to hold out nothing")
    mask = np.array([is_held_out(key, fraction) for key in keys], dtype=bool)
    if fraction > 0.0 and not mask.any():
        raise _empty_side("holds out none of its {} images", where, len(keys), fraction, 1.0 - fraction)
    if mask.all():
        raise _empty_side("leaves none of its {} images to train on", where, len(keys), fraction, fraction)
    return mask


def _empty_side(effect: str, where: str, count: int, fraction: float, chance_per_image: float) -> UserError:
    needed = math.ceil(math.log(0.01) / math.log(chance_per_image))
    return UserError(
        f"{where}: a held-out fraction of {fraction:g} {effect.format(count)}; "
        f"give at least {needed} images or another fraction"
    )
