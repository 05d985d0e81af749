"""Midpoints between latents: does the decoder know what lies between two photos?

After iFID (Xu et al., 2603.05630), which decodes mixtures of every latent with its nearest neighbour and finds that
their distance to photos ranks generators far better than the reconstructions' does. Here the distance is measured in
networks that are not Inception, so it must not be called iFID.
"""

import numpy as np
from jaxtyping import Float, Int

from reals.runtime.seed import derive_seed

_BLOCK = 512


def nearest_partners(latents: Float[np.ndarray, "n c h w"]) -> Int[np.ndarray, " n"]:
    """Return each latent's nearest other latent by Euclidean distance.

    Raises:
        ValueError: fewer than two latents.
    """
    rows = latents.reshape(len(latents), -1).astype(np.float64)
    if len(rows) < 2:
        raise ValueError(f"a partner needs at least two latents, found {len(rows)}")
    squares = np.square(rows).sum(axis=1)
    nearest = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        distances = squares[None, :] - 2.0 * rows[start:stop] @ rows.T
        distances[np.arange(stop - start), np.arange(start, stop)] = np.inf
        nearest[start:stop] = distances.argmin(axis=1)
    return nearest


def random_partners(count: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Return a random other item for each of ``count``; each item is a partner once.

    Raises:
        ValueError: fewer than two items.
    """
    if count < 2:
        raise ValueError(f"a partner needs at least two latents, found {count}")
    order = np.random.default_rng(derive_seed("partners", seed, count)).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners


def midpoints(latents: Float[np.ndarray, "n c h w"], partners: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c h w"]:
    """Return the mean of each latent and its partner's: linear, as latents of photos have no common length."""
    return 0.5 * (latents + latents[partners])
