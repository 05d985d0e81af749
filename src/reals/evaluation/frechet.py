"""Fréchet distance between Gaussians fitted to features (Dowson and Landau, 1982; Heusel et al., 2017).

``d² = |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½)``. The matrix root is never formed: the eigenvalues of ``Σa Σb`` are
those of the symmetric ``Fᵀ Σb F`` with ``Σa = F Fᵀ``, real and non-negative up to rounding, so rank-deficient
covariances need neither a ridge nor complex arithmetic. Above a few hundred dimensions the root's trace is most of the
cost, and a Cholesky factor makes it ten times cheaper than a general matrix root. Decompositions run on the device, in
PyTorch, which was measured to be twice as fast as NumPy on a CPU; covariances are NumPy's, whose product of a matrix
with itself computes one half.

The ADM evaluator takes means in float32 and a general matrix root; here everything is float64, which agrees with it to
1e-5 on its own examples.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reals.evaluation.bootstrap import REPLICATES, Estimate, resampling_counts
from reals.evaluation.finite import check_finite
from reals.evaluation.float32 import float64_device
from reals.evaluation.slices import slices
from reals.runtime import interrupt
from reals.runtime.progress import progress
from reals.runtime.threads import one_thread

_ROWS = 4096
# Of a matrix whose eigenvectors a second thread finds hardly faster (benchmarks/eigenvalues.py).
_SMALL = 1024


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance (divisor ``count - 1``) of a set of features, in float64."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    count: int | None
    """Of items; None for statistics from a file that does not say."""
    factor: Float[np.ndarray, "d r"] | None = None
    """``F`` with ``F Fᵀ`` = covariance, where the items are fewer than dimensions: it makes everything cheap."""

    @property
    def columns(self) -> int:
        """Of the factor, known or to be computed."""
        return len(self.mean) if self.factor is None else self.factor.shape[1]


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
    for some in slices(len(features), _ROWS):
        check_finite(features[some])
    return _weighted_statistics(features, weights)


def _weighted_statistics(rows: np.ndarray, weights: np.ndarray) -> GaussianStatistics:
    """Fit a Gaussian to weighted rows; rows of weight zero (37 % of a bootstrap replicate) cost nothing."""
    total, dimension = int(weights.sum()), rows.shape[1]
    mean = sum(
        (weights[some] @ rows[some].astype(np.float64) for some in slices(len(rows), _ROWS)), np.zeros(dimension)
    )
    mean /= total

    def scaled(some: slice) -> np.ndarray:
        drawn = weights[some] > 0
        return (rows[some][drawn].astype(np.float64) - mean) * np.sqrt(weights[some][drawn] / (total - 1))[:, None]

    if len(rows) < dimension:
        factor = np.concatenate([scaled(some) for some in slices(len(rows), _ROWS)]).T
        return GaussianStatistics(mean, factor @ factor.T, total, factor)
    covariance = np.zeros((dimension, dimension))
    for some in slices(len(rows), _ROWS):
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
        check_finite(self._scatter)
        return GaussianStatistics(self._mean.copy(), self._scatter / (self._count - 1), self._count)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics, device: torch.device | str = "cpu") -> float:
    """Return the squared Fréchet distance of two Gaussians, the number called FID; not below zero.

    Raises:
        ValueError: the features have different dimensions.
    """
    pair = FrechetPair(a, b, device)
    return pair.distance_of(_eigenvalues(pair.product))


def frechet_influence(
    own: GaussianStatistics,
    other: GaussianStatistics,
    features: Float[np.ndarray, "n d"],
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, " n"]:
    """Return :meth:`FrechetPair.influence` of the items behind ``own`` on the distance to ``other``."""
    return FrechetPair(own, other, device).influence(own, features)


class FrechetPair:
    """Two Gaussians, their distance, and how each item behind either moves it: by one decomposition, on one device.

    With ``F Fᵀ = Σa`` and ``M = Fᵀ Σb F = V Λ Vᵀ`` the distance needs ``Λ`` alone. Its derivative by ``Σb`` is
    ``I - S Sᵀ`` with ``S = F V Λ^-¼``: ``S Sᵀ = F M^-½ Fᵀ`` carries b onto a. The derivative by ``Σa`` has
    ``S = Σb F V Λ^-¾``, because ``Σb = G Gᵀ`` gives ``Gᵀ Σa G`` the same eigenvalues, and the vectors ``Gᵀ F V Λ^-½``.
    Directions that a set does not occupy stay empty when it is resampled, so the inverse powers leave them out.
    """

    def __init__(self, a: GaussianStatistics, b: GaussianStatistics, device: torch.device | str = "cpu"):
        """Take two Gaussians; computed where ``device`` is, or on the CPU if it has no float64.

        Raises:
            ValueError: the features have different dimensions.
        """
        if a.mean.shape != b.mean.shape:
            raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
        # The narrower factor makes the smaller matrix.
        self._base, self._other = (b, a) if b.columns < a.columns else (a, b)
        self._device = float64_device(torch.device(device))

    @cached_property
    def _factor(self) -> Float[Tensor, "d r"]:
        """``F``: Cholesky's where it exists, else through eigenvalues, which is slower but takes any rank."""
        if self._base.factor is not None:
            return self._place(self._base.factor)
        covariance = self._place(self._base.covariance)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if not failed:
            return factor
        eigenvalues, vectors = _eigenpairs(covariance)
        return vectors * eigenvalues.clamp(min=0.0).sqrt()

    @property
    def product(self) -> Float[Tensor, "r r"]:
        """``Fᵀ Σb F``."""
        return self._factor.T @ self._place(self._other.covariance) @ self._factor

    @cached_property
    def _decomposition(self) -> tuple[Float[Tensor, " r"], Float[Tensor, "r r"]]:
        return _eigenpairs(self.product)

    @property
    def distance(self) -> float:
        """The squared Fréchet distance; not below zero."""
        return self.distance_of(self._decomposition[0])

    def distance_of(self, eigenvalues: Float[Tensor, " r"]) -> float:
        """Return the distance, given the eigenvalues of :attr:`product`."""
        a, b = self._base, self._other
        shift = a.mean - b.mean
        root_trace = float(eigenvalues.clamp(min=0.0).sqrt().sum())
        return max(float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance)) - 2.0 * root_trace, 0.0)

    def influence(self, own: GaussianStatistics, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return how each item of a set moves the distance: the derivative by the item's weight.

        By the mean the derivative is ``2 (μown - μother)``. Resampling these numbers costs a mean per replicate instead
        of a covariance and its root.

        Args:
            own: one of the two, the Gaussian of ``features``.
            features: the items.
        """
        spread, mean = self._spread(own), self._place(own.mean)
        # A covariance divides by one item fewer than there are.
        unbiased = len(features) / (len(features) - 1)
        shift = mean - self._place((self._other if own is self._base else self._base).mean)
        influence = np.empty(len(features))
        for some in slices(len(features), _ROWS):
            centred = self._place(features[some]).double() - mean
            change = centred.square().sum(dim=1) - (centred @ spread).square().sum(dim=1)
            influence[some] = (unbiased * change + 2.0 * (centred @ shift)).cpu().numpy()
        return influence - influence.mean()

    def _spread(self, own: GaussianStatistics) -> Float[Tensor, "d r"]:
        eigenvalues, vectors = self._decomposition
        occupied = eigenvalues > eigenvalues[-1] * len(own.mean) * np.finfo(np.float64).eps
        eigenvalues, carried = eigenvalues[occupied], self._factor @ vectors[:, occupied]
        if own is self._base:
            return self._place(self._other.covariance) @ (carried / eigenvalues**0.75)
        return carried / eigenvalues**0.25

    def _place(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _eigenvalues(matrix: Float[Tensor, "d d"]) -> Float[Tensor, " d"]:
    # More threads were measured to gain nothing.
    with one_thread():
        return torch.linalg.eigvalsh(matrix)


def _eigenpairs(matrix: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    with one_thread() if len(matrix) <= _SMALL else nullcontext():
        eigenvalues, vectors = torch.linalg.eigh(matrix)
    return eigenvalues, vectors


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
    replicates = np.empty(len(samples.means))
    with one_thread(), progress("Fréchet distances", len(replicates), "replicates") as shown:
        value = frechet_distance(reference.point, samples.point)
        for number, pair in enumerate(zip(reference.replicates(), samples.replicates(), strict=True)):
            interrupt.stop_if_requested("while comparing resampled features")
            replicates[number] = frechet_distance(*pair)
            shown.advance()
    return Estimate(value, replicates)
