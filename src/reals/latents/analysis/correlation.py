"""Rank correlation with its permutation test: does a number known before training order what came out of it?"""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float

from reals.runtime.seed import derive_seed

_EXACT_UP_TO = 8
_DRAWS = 20_000


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of two lists."""

    rho: float
    """In [-1, 1]."""
    p_value: float
    """Share of all orders (of 20,000 random ones above eight items) whose |ρ| is at least as large."""
    count: int
    """Items."""


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return ranks from 1, ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[inverse]


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int = 0) -> RankCorrelation | None:
    """Return Spearman's rank correlation with a two-sided permutation p-value, or None where it is not defined.

    It is not for fewer than three items, or where all of ``x`` or all of ``y`` are equal.
    """
    a, b = (ranks(values.astype(np.float64)) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt((a @ a) * (b @ b))
    if len(a) < 3 or norm == 0.0:
        return None
    rho = float(a @ b) / norm
    if len(a) <= _EXACT_UP_TO:
        shuffled = np.array(list(permutations(b)))
        p_value = float((np.abs(shuffled @ a) >= abs(rho) * norm - 1e-9).mean())
    else:
        generator = np.random.default_rng(derive_seed("permutations", seed, len(a)))
        shuffled = generator.permuted(np.tile(b, (_DRAWS, 1)), axis=1)
        extreme = int((np.abs(shuffled @ a) >= abs(rho) * norm - 1e-9).sum())
        # The observed order is one of those that chance may draw, so p is never 0.
        p_value = (extreme + 1) / (_DRAWS + 1)
    return RankCorrelation(rho, p_value, len(a))
