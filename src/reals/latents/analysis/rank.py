"""How many directions latents use: effective rank and participation ratio of their covariance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Rank:
    """Two soft counts of the directions in which vectors vary; both are d for a white distribution in d dimensions."""

    effective: float
    """exp of the entropy of the normalised eigenvalues (Roy and Vetterli, 2007)."""
    participation: float
    """(Σλ)² / Σλ²: weighs large eigenvalues more, so it is never above :attr:`effective`."""
    ceiling: int
    """The largest value either can have: the dimension, or the number of vectors less one."""


def covariance_rank(vectors: Float[np.ndarray, "n d"]) -> Rank:
    """Return the rank of the covariance of ``n`` vectors.

    Whichever is smaller of the covariance (d x d) and the Gram matrix (n x n) is decomposed; they share eigenvalues.

    Raises:
        ValueError: fewer than two vectors, or vectors that do not vary.
    """
    if len(vectors) < 2:
        raise ValueError(f"a covariance needs at least two vectors, found {len(vectors)}")
    centred = vectors.astype(np.float64)
    centred = centred - centred.mean(axis=0)
    count, dimension = centred.shape
    product = centred.T @ centred if dimension <= count else centred @ centred.T
    return rank_of_spectrum(np.linalg.eigvalsh(product), min(dimension, count - 1))


def rank_of_spectrum(eigenvalues: Float[np.ndarray, " k"], ceiling: int | None = None) -> Rank:
    """Return the rank of a covariance with these eigenvalues; negative ones are rounding and count as 0.

    Raises:
        ValueError: no eigenvalue is positive.
    """
    positive = np.clip(eigenvalues, 0.0, None)
    if positive.sum() <= 0.0:
        raise ValueError("vectors that do not vary have no rank")
    shares = positive / positive.sum()
    known = shares[shares > 0]
    entropy = -(known * np.log(known)).sum()
    return Rank(
        effective=float(np.exp(entropy)),
        participation=float(1.0 / np.square(shares).sum()),
        ceiling=len(eigenvalues) if ceiling is None else ceiling,
    )


def cells(latents: Float[np.ndarray, "n c h w"]) -> Float[np.ndarray, "m c"]:
    """Return the channel vector of every cell of every image."""
    return np.moveaxis(latents, 1, -1).reshape(-1, latents.shape[1])
