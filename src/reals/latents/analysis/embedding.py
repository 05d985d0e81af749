"""A map of latents in the plane (t-SNE), for looking at; no number is read from it."""

import warnings

import numpy as np
from jaxtyping import Float, Int

from reals.runtime.seed import derive_seed

PERPLEXITY = 30.0
"""Neighbours that a point keeps; fewer where there are few points."""


def choose_by_class(
    labels: Int[np.ndarray, " n"], *, classes: int = 10, each: int = 128, seed: int = 0
) -> Int[np.ndarray, " m"]:
    """Return positions of up to ``each`` items of up to ``classes`` classes, both drawn by ``seed``; in class order."""
    present = np.unique(labels)
    generator = np.random.default_rng(derive_seed("map of classes", seed))
    chosen = np.sort(generator.permutation(present)[:classes])
    return np.concatenate([np.sort(generator.permutation(np.flatnonzero(labels == label))[:each]) for label in chosen])


def plane(vectors: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Return t-SNE coordinates of vectors, from a principal-component start; the same for the same seed.

    Raises:
        ValueError: fewer than four vectors.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        raise ValueError(f"a map needs at least four vectors, found {len(vectors)}")
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    mapping = TSNE(perplexity=perplexity, init="pca", random_state=derive_seed("t-SNE", seed) % 2**32)
    with warnings.catch_warnings():
        # Latents of a collapsed autoencoder have components without variance; the map shows that itself.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(mapping.fit_transform(vectors.astype(np.float32)), dtype=np.float32)
