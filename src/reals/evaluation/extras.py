"""Measures beyond the usual five, of sets that a network has judged already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from reals.evaluation.bootstrap import Estimate, linearised_estimate, mean_estimate
from reals.evaluation.classes import MatchedClasses
from reals.evaluation.extrapolation import extrapolated_distance
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.evaluation.kernel_distance import Discrepancy, clip_discrepancy, kernel_inception_distance
from reals.evaluation.measures import Judged, Settings
from reals.evaluation.memorisation import NearestTraining
from reals.evaluation.precision_recall import COVERAGE_NEIGHBOURS, density_coverage

# A covariance of two items is one direction.
_SMALLEST_CLASS = 2


def kernel_distance(reference: Judged, samples: Judged, settings: Settings) -> dict[str, Estimate]:
    """Return ``kid``; of networks other than FID's, ``kd/NETWORK``."""
    found = kernel_inception_distance(reference.features, samples.features, settings.device, paired=settings.paired)
    name = "kid" if samples.suffix == "" else f"kd{samples.suffix}"
    return {name: _estimate(found, settings)}


def clip_distance(
    reference: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], network: str, settings: Settings
) -> dict[str, Estimate]:
    """Return ``cmmd/NETWORK``.

    Raises:
        ValueError: an embedding is not finite, or has no direction.
    """
    for role, embeddings in (("reference", reference), ("samples", samples)):
        lengths = np.linalg.norm(embeddings, axis=1)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ValueError(f"{role}: embeddings of {network} are not finite or zero: the network is broken")
    return {f"cmmd/{network}": _estimate(clip_discrepancy(reference, samples, settings.device), settings)}


def copied_share(found: NearestTraining, suffix: str, settings: Settings) -> dict[str, Estimate]:
    """Return ``copied``: the share of samples nearer to a training image than its own nearest neighbour is."""
    return {f"copied{suffix}": mean_estimate(found.copied, replicates=settings.replicates, seed=settings.seed)}


def _estimate(found: Discrepancy, settings: Settings) -> Estimate:
    influences = {"samples": found.sample_influence}
    influences[settings.reference_role] = found.reference_influence + (
        found.sample_influence if settings.paired else 0.0
    )
    return linearised_estimate(found.value, influences, replicates=settings.replicates, seed=settings.seed)


def more_estimates(
    reference: Judged, samples: Judged, known: Mapping[str, Estimate], settings: Settings
) -> tuple[dict[str, Estimate], list[str]]:
    """Return the kernel distance, density, coverage and the extrapolated Fréchet distance; and warnings.

    ``known`` are the estimates of :func:`reals.evaluation.measures.measure`.
    """
    estimates = kernel_distance(reference, samples, settings)
    warnings = []
    if min(len(reference.features), len(samples.features)) <= COVERAGE_NEIGHBOURS:
        warnings.append(f"density and coverage are not reported: they need more than {COVERAGE_NEIGHBOURS} images")
    else:
        estimates |= _density_coverage(reference, samples, settings)
    name, gaussian = next(iter(samples.gaussians.items()))
    if gaussian.features is None:
        return estimates, [*warnings, f"{name} is not extrapolated: the samples' statistics are stored"]
    kind, slash, network = name.partition("/")
    try:
        estimates[f"{kind}_infinity{slash}{network}"] = extrapolated_distance(
            reference.gaussians[name].statistics,
            gaussian.features,
            known[name],
            seed=settings.seed,
            device=settings.device,
        )
    except ValueError as error:
        return estimates, [*warnings, f"{name} is not extrapolated: {error}"]
    known_items = reference.gaussians[name].features
    if known_items is not None:
        warnings.append(
            f"{kind}_infinity{slash}{network} is free of the samples' share of the bias only: the reference's "
            f"statistics are those of its {len(known_items)} images, not stored ones of more"
        )
    return estimates, warnings


def _density_coverage(reference: Judged, samples: Judged, settings: Settings) -> dict[str, Estimate]:
    found = density_coverage(reference.features, samples.features, device=settings.device)
    resampling: dict[str, Any] = {"replicates": settings.replicates, "seed": settings.seed}
    balls, role = found.balls / found.neighbours, settings.reference_role
    density = mean_estimate(balls, role="samples", more={role: found.reference_influence}, **resampling)
    coverage = mean_estimate(found.covered, role=role, more={"samples": found.sample_influence}, **resampling)
    return {f"density{samples.suffix}": density, f"coverage{samples.suffix}": coverage}


@dataclass(frozen=True)
class RankedClasses:
    """Classes by their distance to the reference."""

    distances: list[dict[str, Any]]
    """Of each class, worst first: ``label``, ``name`` where it has one, ``distance``, and numbers of images."""
    cautions: tuple[str, ...]
    """Which classes are left out."""


def per_class_distances(
    reference: Judged, samples: Judged, classes: MatchedClasses, settings: Settings
) -> RankedClasses:
    """Measure the Fréchet distance of each class of the samples to the same class of the reference.

    Classes are smaller than a covariance needs, so the numbers rank classes of one evaluation and mean little else.
    Classes of which either set has fewer than two images are left out.
    """
    found, left_out = [], []
    names = dict(enumerate(classes.names or ()))
    for label in np.unique(np.concatenate([classes.samples, classes.reference])).tolist():
        own, other = classes.samples == label, classes.reference == label
        if min(own.sum(), other.sum()) < _SMALLEST_CLASS:
            left_out.append(str(names.get(label, label)))
            continue
        distance = frechet_distance(
            gaussian_statistics(reference.features[other]), gaussian_statistics(samples.features[own]), settings.device
        )
        named = {"name": names[label]} if label in names else {}
        counts = {"samples": int(own.sum()), "reference": int(other.sum())}
        found.append({"label": label, **named, "distance": distance, **counts})
    cautions = [f"classes with fewer than {_SMALLEST_CLASS} images in a set are left out: {', '.join(left_out)}"]
    return RankedClasses(sorted(found, key=lambda one: -one["distance"]), tuple(cautions if left_out else ()))
