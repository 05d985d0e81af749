"""Inception Score (Salimans et al., 2016) as the ADM evaluator computes it.

``exp(E KL(p(y|x) | p(y)))`` on consecutive chunks of 5000 images in their stored order, averaged over chunks; a short
last chunk weighs as much as the others. There is no shuffling and no standard deviation over chunks.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

CHUNK = 5000
"""Images that share a marginal distribution of classes."""


def inception_score(
    chunks: Iterable[Float[np.ndarray, "_ classes"]],
) -> tuple[float, Float[np.ndarray, " total"]]:
    """Return the score, and how it moves with each image's weight (see ``linearised_estimate``).

    Args:
        chunks: class probabilities, one array for each ``CHUNK`` images.

    Raises:
        ValueError: there are no images.
    """
    scores, influences = [], []
    for chunk in chunks:
        probabilities = chunk.astype(np.float64)
        # A probability may underflow to zero: p log p is then 0, where ADM's float32 would give NaN.
        tiny = np.finfo(np.float64).tiny
        marginal = np.log(np.maximum(probabilities.mean(axis=0), tiny))
        divergences = (probabilities * (np.log(np.maximum(probabilities, tiny)) - marginal)).sum(axis=1)
        scores.append(np.exp(divergences.mean()))
        influences.append(scores[-1] * (divergences - divergences.mean()))
    if not scores:
        raise ValueError("an Inception Score needs at least one image")
    total = sum(map(len, influences))
    shares = [influence * (total / (len(influence) * len(scores))) for influence in influences]
    return float(np.mean(scores)), np.concatenate(shares)
