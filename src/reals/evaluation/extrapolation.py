"""Fréchet distance extrapolated to infinitely many samples (Chong and Forsyth, 1911.07023).

The distance's bias falls as one over the number of samples: distances of subsets of growing size lie on a line in
``1 / n``, whose intercept is free of it. The reference stays whole.
"""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Float

from reals.evaluation.bootstrap import Estimate
from reals.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from reals.evaluation.slices import slices
from reals.runtime import interrupt
from reals.runtime.seed import derive_seed

SUBSETS = 15
"""Points of the line."""

# The bias has a term in one over the number squared, too, which bends the line and puts the intercept too low: by 3 %
# of the distance's own bias at 10 samples a dimension, by 7 % at 4.8 (benchmarks/fid_infinity_bias.py). Subsets of a
# quarter bend it twice as much, for intercepts that vary about as much.
_SMALLEST_SHARE = 0.5
_SMALLEST_PER_DIMENSION = 2.4
# Hashed at once.
_ROWS = 4096


def extrapolated_distance(
    reference: GaussianStatistics,
    samples: Float[np.ndarray, "n d"],
    whole: Estimate,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Return the intercept; its interval has the spread of the distance itself and that of the line's fit.

    Only the samples' number is extrapolated: a reference of few items keeps its own share of the bias.

    Args:
        reference: what the distance is to.
        samples: features, which are not copied; the smallest subset, half of them, must be 2.4 times their dimensions,
            as the 5000 images of the original's are for 2048.
        whole: the distance of all samples.
        seed: of the subsets, together with the samples themselves: the fits of two sets are independent.
        device: where the distances are computed.

    Raises:
        ValueError: there are too few samples.
    """
    count, dimension = samples.shape
    needed = math.ceil(_SMALLEST_PER_DIMENSION * dimension / _SMALLEST_SHARE)
    if count < needed:
        raise ValueError(f"extrapolation needs at least {needed} samples of {dimension} features, found {count}")
    generator = np.random.default_rng(derive_seed("extrapolation", seed, count, _digest(samples)))
    # Evenly spaced on the line's axis, so that the small subsets do not decide it alone.
    sizes = np.round(1 / np.linspace(1 / count, 1 / (count * _SMALLEST_SHARE), SUBSETS)).astype(np.int64)
    distances = np.empty(SUBSETS)
    for point, size in enumerate(sizes):
        interrupt.stop_if_requested("while extrapolating a distance")
        chosen = np.zeros(count, np.int64)
        chosen[generator.permutation(count)[:size]] = 1
        distances[point] = frechet_distance(reference, gaussian_statistics(samples, chosen), device)
    axis = 1.0 / sizes
    slope, intercept = np.polyfit(axis, distances, 1)
    residuals = distances - (slope * axis + intercept)
    spread = np.square(axis - axis.mean()).sum()
    variance = np.square(residuals).sum() / (SUBSETS - 2) * (1 / SUBSETS + axis.mean() ** 2 / spread)
    drawn = generator.normal(size=len(whole.replicates)) * variance**0.5
    return Estimate(float(intercept), intercept + (whole.replicates - whole.value) + drawn)


def _digest(samples: np.ndarray) -> str:
    digest = hashlib.sha256()
    for some in slices(len(samples), _ROWS):
        digest.update(samples[some].tobytes())
    return digest.hexdigest()
