"""From the features of a reference and of samples to named metrics with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from reals.evaluation.bootstrap import REPLICATES, Estimate, linearised_estimate, mean_estimate
from reals.evaluation.foundation import ClipFeatures
from reals.evaluation.frechet import FrechetPair, GaussianStatistics, gaussian_statistics
from reals.evaluation.inception import InceptionFeatures, pool_features, spatial_features
from reals.evaluation.networks import FeatureNetwork
from reals.evaluation.precision_recall import Arithmetic, precision_recall
from reals.evaluation.stored import StoredStatistics
from reals.models.inception import POOL_DIMENSION, SPATIAL_DIMENSION


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What a Fréchet distance needs of one set."""

    statistics: GaussianStatistics
    features: Float[np.ndarray, "n d"] | None
    """The items behind the statistics, which intervals resample; None for statistics from a file."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A set of images as one network sees it."""

    features: Float[np.ndarray, "n d"]
    """Of precision, recall and everything else that compares items."""
    gaussians: Mapping[str, Gaussian]
    """By the name of the Fréchet distance that they are for."""
    suffix: str
    """Behind the names of the other metrics: ``""`` for FID's network, ``"/NETWORK"`` for others."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides numbers besides images and networks."""

    replicates: int = REPLICATES
    """Bootstrap resamples behind the intervals."""
    seed: int = 0
    """Of the bootstrap."""
    arithmetic: Arithmetic = "exact"
    """Of precision and recall."""
    paired: bool = False
    """Whether samples are reconstructions of the reference's images, in the same order: both are resampled together."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where distances are computed."""

    @property
    def reference_role(self) -> str:
        """In which role the bootstrap resamples the reference."""
        return "samples" if self.paired else "reference"


def judge(
    features: Float[np.ndarray, "n d"], network: FeatureNetwork, stored: StoredStatistics | None = None
) -> Judged:
    """Fit what a network makes of a set; FID's takes stored statistics for computed ones, as in the ADM evaluator.

    Raises:
        ValueError: fewer than two images, or a feature that is not finite.
    """
    if isinstance(network, InceptionFeatures):
        return _judge_by_inception(features, stored)
    if isinstance(network, ClipFeatures):
        # Its distance compares items, not Gaussians.
        return Judged(features, {}, f"/{network.name}")
    gaussian = Gaussian(gaussian_statistics(features), features)
    return Judged(features, {f"fd/{network.name}": gaussian}, f"/{network.name}")


def _judge_by_inception(features: Float[np.ndarray, "n 4071"], stored: StoredStatistics | None) -> Judged:
    pool, spatial = pool_features(features), spatial_features(features)
    if stored is None:
        gaussians = {"fid": Gaussian(gaussian_statistics(pool), pool)}
        gaussians["sfid"] = Gaussian(gaussian_statistics(spatial), spatial)
    else:
        gaussians = {"fid": Gaussian(stored.pool, None)}
        if stored.spatial is not None:
            gaussians["sfid"] = Gaussian(stored.spatial, None)
    return Judged(pool, gaussians, "")


def gaussian_dimension(network: FeatureNetwork) -> int | None:
    """Return the dimensions of the largest covariance that a network's distances need, None if they need none."""
    if isinstance(network, ClipFeatures):
        return None
    return max(POOL_DIMENSION, SPATIAL_DIMENSION) if isinstance(network, InceptionFeatures) else network.dimension


def measure(reference: Judged, samples: Judged, network: FeatureNetwork, settings: Settings) -> dict[str, Estimate]:
    """Return Fréchet distances, precision and recall of samples against a reference judged by the same network.

    With FID's network they are the five metrics of the ADM evaluator in its order, without sFID where a file has no
    statistics for it.
    """
    estimates: dict[str, Estimate] = {}
    if isinstance(network, InceptionFeatures):
        score, influence = network.score(samples.features)
        estimates["inception_score"] = linearised_estimate(
            score, {"samples": influence}, replicates=settings.replicates, seed=settings.seed
        )
    estimates |= {
        name: frechet_with_interval(reference.gaussians[name], gaussian, settings)
        for name, gaussian in samples.gaussians.items()
        if name in reference.gaussians
    }
    manifolds = precision_recall(
        reference.features, samples.features, arithmetic=settings.arithmetic, device=settings.device
    )
    for name, inside, role, more in (
        ("precision", manifolds.sample_inside, "samples", {settings.reference_role: manifolds.reference_influence}),
        ("recall", manifolds.reference_inside, settings.reference_role, {"samples": manifolds.sample_influence}),
    ):
        estimates[name + samples.suffix] = mean_estimate(
            inside, replicates=settings.replicates, role=role, seed=settings.seed, more=more
        )
    return estimates


def frechet_with_interval(reference: Gaussian, samples: Gaussian, settings: Settings) -> Estimate:
    """Return a Fréchet distance; its interval resamples the items of both sets, as far as they are known."""
    pair = FrechetPair(reference.statistics, samples.statistics, settings.device)
    influences: dict[str, np.ndarray] = {}
    for role, own in ((settings.reference_role, reference), ("samples", samples)):
        if own.features is not None:
            # Where images are paired, an image's weight moves the distance on both sides.
            influences[role] = pair.influence(own.statistics, own.features) + influences.get(role, 0)
    return linearised_estimate(pair.distance, influences, replicates=settings.replicates, seed=settings.seed)
