"""Two-colour patterns: on planes, for floor and walls, and in space, for solids carved from patterned matter.

Each returns the weight of the second colour. ``sharpness`` is about how many pixels a period spans; where it is small
the pattern's edges, and then the pattern itself, fade instead of aliasing.
"""

from collections.abc import Sequence

import numpy as np

PLAIN, STRIPES, CHECKER, TILES, DOTS, GRADIENT = range(6)

_HARDEST = np.float32(40.0)


def wave(position: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1: -1 at whole numbers, 1 between them."""
    return 4.0 * abs(position - np.floor(position + 0.5)) - 1.0


def _edge(signed: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.clip(signed, -1.0, 1.0)


def plane_pattern(kind: int, u: np.ndarray, v: np.ndarray, sharpness: np.ndarray) -> np.ndarray:
    """Evaluate a pattern at plane coordinates ``u``, ``v``, in periods."""
    sharpness = np.minimum(sharpness, _HARDEST)
    if kind == GRADIENT:
        return np.clip(0.5 * v, 0.0, 1.0)
    if kind == STRIPES:
        return _edge(wave(u) * sharpness)
    if kind == TILES:
        return _edge((np.maximum(wave(u), wave(v)) - 0.90) * sharpness)
    if kind == DOTS:
        from_centre = np.sqrt(np.square(u - np.floor(u + 0.5)) + np.square(v - np.floor(v + 0.5)))
        return _edge((0.27 - from_centre) * 4.0 * sharpness)
    if kind == CHECKER:
        return 0.5 + 0.5 * np.clip(wave(u) * sharpness, -1.0, 1.0) * np.clip(wave(v) * sharpness, -1.0, 1.0)
    return np.zeros_like(u)


def solid_pattern(
    kind: int, coordinates: Sequence[np.ndarray], across: np.ndarray, sharpness: np.ndarray
) -> np.ndarray:
    """Evaluate a pattern at space coordinates, in periods; stripes run at right angles to ``across``, in periods."""
    sharpness = np.minimum(sharpness, _HARDEST)
    if kind == STRIPES:
        return _edge(wave(across) * sharpness)
    x, y, z = (wave(c) for c in coordinates)
    if kind == CHECKER:
        first, second, third = (np.clip(w * sharpness, -1.0, 1.0) for w in (x, y, z))
        return 0.5 + 0.5 * first * second * third
    if kind == DOTS:
        # Blobs around the points of a face-centred lattice, which surfaces cut into round dots.
        return _edge(2.5 * (x * y * z - 0.12) * sharpness)
    return np.zeros_like(across)
