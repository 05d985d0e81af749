"""Fréchet distance between Gaussians fitted to features (Dowson and Landau, 1982; Heusel et al., 2017).

``d² = |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½)``. The matrix root is never formed: the eigenvalues of ``Σa Σb`` are
those of the symmetric ``Fᵀ Σb F`` with ``Σa = F Fᵀ``, real and non-negative up to rounding, so rank-deficient
covariances need neither a ridge nor complex arithmetic. Above a few hundred dimensions the root's trace is most of the
cost, and a Cholesky factor makes it ten times cheaper than a general matrix root.

The ADM evaluator takes means in float32 and a general matrix root; here everything is float64, which agrees with it to
1e-5 on its own examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from reals.evaluation.bootstrap import REPLICATES, Estimate, resampling_counts
from reals.runtime import interrupt
from reals.runtime.progress import progress

_ROWS = 4096


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance (divisor ``count - 1``) of a set of features, in float64."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    count: int | None
    """Of items; None for statistics from a file that does not say."""
    factor: Float[np.ndarray, "d r"] | None = None
    """``F`` with ``F Fᵀ`` = covariance, where the items are fewer than dimensions: it makes everything cheap."""


def gaussian_statistics(
    features: Float[np.ndarray, "n d"], counts: Int[np.ndarray, " n"] | None = None
) -> GaussianStatistics:
    """Fit a Gaussian to features, each row repeated ``counts`` times (once if None).

    Raises:
        ValueError: fewer than two rows, or a feature that is not finite.
    """
    weights = np.ones(len(features), dtype=np.int64) if counts is None else counts
    total = int(weights.sum())
    if total < 2:
        raise ValueError(f"a covariance needs at least two rows of features, found {total}")
    if not all(np.isfinite(features[block]).all() for block in blocks(len(features))):
        raise ValueError("features are not finite: the network or the images are broken")
    return _weighted_statistics(features, weights)


def blocks(count: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows, so that float64 copies never hold all of them."""
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _weighted_statistics(rows: np.ndarray, weights: np.ndarray) -> GaussianStatistics:
    """Fit a Gaussian to weighted rows; rows of weight zero (37 % of a bootstrap replicate) cost nothing."""
    total, dimension = int(weights.sum()), rows.shape[1]
    mean = sum((weights[some] @ rows[some].astype(np.float64) for some in blocks(len(rows))), np.zeros(dimension))
    mean /= total

    def scaled(some: slice) -> np.ndarray:
        drawn = weights[some] > 0
        return (rows[some][drawn].astype(np.float64) - mean) * np.sqrt(weights[some][drawn] / (total - 1))[:, None]

    if len(rows) < dimension:
        factor = np.concatenate([scaled(some) for some in blocks(len(rows))]).T
        return GaussianStatistics(mean, factor @ factor.T, total, factor)
    covariance = np.zeros((dimension, dimension))
    for some in blocks(len(rows)):
        part = scaled(some)
        covariance += part.T @ part
    return GaussianStatistics(mean, covariance, total)


class GaussianAccumulator:
    """Fits a Gaussian to features that pass in batches and are not kept (Chan et al., 1979)."""

    def __init__(self, dimension: int):
        self._count = 0
        self._mean = np.zeros(dimension)
        self._scatter = np.zeros((dimension, dimension))

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Take in a batch."""
        rows = features.astype(np.float64)
        mean = rows.mean(axis=0)
        centred, shift = rows - mean, mean - self._mean
        total = self._count + len(rows)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self._count * len(rows) / total)
        self._mean += shift * (len(rows) / total)
        self._count = total

    def statistics(self) -> GaussianStatistics:
        """Return the Gaussian of everything so far.

        Raises:
            ValueError: fewer than two rows, or a feature that is not finite.
        """
        if self._count < 2:
            raise ValueError(f"a covariance needs at least two rows of features, found {self._count}")
        if not np.isfinite(self._scatter).all():
            raise ValueError("features are not finite: the network or the images are broken")
        return GaussianStatistics(self._mean.copy(), self._scatter / (self._count - 1), self._count)


def _factor(statistics: GaussianStatistics) -> np.ndarray:
    """Return ``F`` with ``F Fᵀ`` = covariance: Cholesky's where it exists, else through eigenvalues, 10 times slower.

    Rank-deficient covariances are harmless to the latter.
    """
    if statistics.factor is not None:
        return statistics.factor
    try:
        return np.linalg.cholesky(statistics.covariance)
    except np.linalg.LinAlgError:
        eigenvalues, vectors = np.linalg.eigh(statistics.covariance)
        return vectors * np.sqrt(np.clip(eigenvalues, 0.0, None))


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Return the squared Fréchet distance of two Gaussians, the number called FID; not below zero.

    Raises:
        ValueError: the features have different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    if a.factor is None and b.factor is not None:
        a, b = b, a
    factor = _factor(a)
    eigenvalues = np.linalg.eigvalsh(factor.T @ b.covariance @ factor)
    root_trace = np.sqrt(np.clip(eigenvalues, 0.0, None)).sum()
    shift = a.mean - b.mean
    distance = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * root_trace
    return max(float(distance), 0.0)


def frechet_influence(
    own: GaussianStatistics, other: GaussianStatistics, features: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """Return how each item of a set moves its distance to another Gaussian: the derivative by the item's weight.

    With ``F Fᵀ = Σother`` and ``M = Fᵀ Σown F`` the derivative of the distance by ``Σown`` is ``I - F M^-½ Fᵀ``, by the
    mean ``2 (μown - μother)``. Directions that a set does not occupy stay empty when it is resampled, so the inverse
    root leaves them out. Resampling these numbers costs a mean per replicate instead of a covariance and its root.

    Args:
        own: the Gaussian of ``features``.
        other: what the distance is to.
        features: the items.
    """
    spread = _spread(own, other)
    # A covariance divides by one item fewer than there are.
    unbiased = len(features) / (len(features) - 1)
    shift = own.mean - other.mean
    influence = np.empty(len(features))
    for some in blocks(len(features)):
        centred = features[some].astype(np.float64) - own.mean
        change = np.square(centred).sum(axis=1) - np.square(centred @ spread).sum(axis=1)
        influence[some] = unbiased * change + 2.0 * (centred @ shift)
    return influence - influence.mean()


def _spread(own: GaussianStatistics, other: GaussianStatistics) -> Float[np.ndarray, "d r"]:
    """Return ``S`` with ``S Sᵀ = F M^-½ Fᵀ``, the map that carries ``own`` onto ``other``."""
    if own.factor is None:
        factor = _factor(other)
        eigenvalues, vectors = np.linalg.eigh(factor.T @ own.covariance @ factor)
        power = 0.25
    else:
        # With G Gᵀ = Σown, M has the eigenvalues of the smaller Gᵀ Σother G, and its vectors are Fᵀ G times those.
        eigenvalues, vectors = np.linalg.eigh(own.factor.T @ other.covariance @ own.factor)
        factor = other.covariance @ own.factor
        power = 0.75
    occupied = eigenvalues > eigenvalues[-1] * len(own.mean) * np.finfo(np.float64).eps
    return factor @ (vectors[:, occupied] / eigenvalues[occupied] ** power)


@dataclass(frozen=True, eq=False)
class ResampledGaussians:
    """A feature set's Gaussian and those of its bootstrap replicates.

    Make it once for a reference that several arms are compared with: the covariances are most of the cost. Replicates
    are kept in float32 (``replicates × d²`` numbers: 82 MB for 200 replicates of 320 features).
    """

    point: GaussianStatistics
    means: Float[np.ndarray, "r d"]
    covariances: Float[np.ndarray, "r d d"]

    @classmethod
    def fit(
        cls,
        features: Float[np.ndarray, "n d"],
        *,
        role: str = "samples",
        replicates: int = REPLICATES,
        seed: int = 0,
    ) -> "ResampledGaussians":
        """Fit the whole set and every replicate.

        Give the samples the role ``"samples"`` and an independent reference the role ``"reference"``; a reference whose
        rows correspond to the samples' (originals and their reconstructions) takes the samples' role, so that both
        are resampled together.
        """
        point = gaussian_statistics(features)
        rows = features.astype(np.float64)
        dimension = rows.shape[1]
        means = np.empty((replicates, dimension), np.float32)
        covariances = np.empty((replicates, dimension, dimension), np.float32)
        with progress(f"Resample {len(rows)} {role}", replicates, "replicates") as shown:
            for replicate in range(replicates):
                interrupt.stop_if_requested("while resampling features")
                counts = resampling_counts(len(rows), replicate, role=role, seed=seed)
                statistics = _weighted_statistics(rows, counts)
                means[replicate], covariances[replicate] = statistics.mean, statistics.covariance
                shown.advance()
        return cls(point, means, covariances)

    def replicates(self) -> Iterator[GaussianStatistics]:
        """Yield the replicates in order."""
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            yield GaussianStatistics(mean.astype(np.float64), covariance.astype(np.float64), self.point.count)


def frechet_estimate(reference: ResampledGaussians, samples: ResampledGaussians) -> Estimate:
    """Estimate the Fréchet distance of samples to a reference, both resampled.

    Raises:
        ValueError: different numbers of replicates, or features of different dimensions.
    """
    if len(reference.means) != len(samples.means):
        raise ValueError(f"{len(reference.means)} replicates cannot be paired with {len(samples.means)}")
    value = frechet_distance(reference.point, samples.point)
    pairs = zip(reference.replicates(), samples.replicates(), strict=True)
    return Estimate(value, np.array([frechet_distance(a, b) for a, b in pairs], dtype=np.float64))
