"""A set of images as an evaluation knows it, and the reasons to distrust numbers that come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.evaluation.classes import MatchedClasses
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.inception import InceptionFeatures
from reals.evaluation.inception_score import CHUNK
from reals.evaluation.measures import Judged, gaussian_dimension
from reals.evaluation.networks import FeatureNetwork
from reals.evaluation.protocol import describe_images
from reals.evaluation.stored import StoredStatistics, holds_statistics

COMFORTABLE_COUNT = 10_000
"""Below this many images, Fréchet distances depend visibly on the number of images."""

_FEW_IN_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Subject:
    """The reference, the samples or the baseline of an evaluation."""

    images: ImageSet
    labels: str
    """How its classes were chosen, ``"unknown"`` where nothing says so."""
    made: Mapping[str, Any] | None
    """What made it, where ``reals sample`` noted that."""
    stored: StoredStatistics | None
    """What FID's network takes for the statistics of its images."""
    judged: tuple[Judged, ...]
    """By each network, the one that names no metric first."""
    classes: MatchedClasses | None = None
    """Those of its images and of the reference's, where they are asked for."""

    def describe(self) -> dict[str, Any]:
        """Return what identifies it, for the protocol."""
        described = describe_images(self.images, self.stored)
        return described if self.made is None else {**described, "made": dict(self.made)}


def cautions(subjects: Mapping[str, Subject], networks: Sequence[FeatureNetwork]) -> list[str]:
    """Return one line for each reason to distrust the numbers.

    Args:
        subjects: by role: "reference", "samples" and perhaps "baseline".
        networks: in the order of :attr:`Subject.judged`.
    """
    lines = []
    for network in networks:
        if isinstance(network, InceptionFeatures) and not network.published:
            lines.append("the Inception network's weights are not the published ones: compare with no published number")
    for role, subject in subjects.items():
        unused = not isinstance(networks[0], InceptionFeatures) and holds_statistics(Path(subject.images.location))
        if unused:
            lines.append(
                f"{role}: the file stores statistics of the FID Inception network, which are not used without it"
            )
        lines += _of_statistics(role, subject) + _of_counts(role, subject, networks)
        if role != "reference" and any(isinstance(network, InceptionFeatures) for network in networks):
            lines += _of_chunks(role, len(subject.images))
    if subjects["reference"].stored is None and subjects["samples"].stored is not None:
        lines.append("the samples have stored statistics and the reference has none: are they the wrong way round?")
    fingerprints = {role: subject.images.fingerprint() for role, subject in subjects.items()}
    if fingerprints["reference"] == fingerprints["samples"]:
        lines.append("reference and samples hold the same images")
    if fingerprints.get("baseline") == fingerprints["samples"]:
        lines.append("baseline and samples hold the same images")
    return lines


def _of_statistics(role: str, subject: Subject) -> list[str]:
    lines = []
    if subject.stored is not None and role != "reference":
        lines.append(f"{role}: statistics stored in the file replace those of its images, as in ADM")
    if subject.stored is not None and subject.stored.spatial is None:
        lines.append(f"{role}: the file stores mu and sigma but not mu_s and sigma_s, so there is no sfid")
    return lines


def _of_counts(role: str, subject: Subject, networks: Sequence[FeatureNetwork]) -> list[str]:
    count = len(subject.images)
    fitted = [
        (network.name, dimension)
        for network in networks
        if (dimension := gaussian_dimension(network)) is not None
        and not (isinstance(network, InceptionFeatures) and subject.stored is not None)
    ]
    deficient = [(name, dimension) for name, dimension in fitted if count <= dimension]
    lines = [
        f"{role}: {count} images leave the covariance of {name}'s {dimension} features rank-deficient; "
        f"the Fréchet distance needs at least {dimension + 1} to mean anything"
        for name, dimension in deficient
    ]
    if len(deficient) < len(fitted) and count < COMFORTABLE_COUNT:
        lines.append(
            f"{role}: {count} images, fewer than {COMFORTABLE_COUNT}; the Fréchet distance is biased "
            "upwards, compare it only with numbers of equally many images"
        )
    return lines


def _of_chunks(role: str, count: int) -> list[str]:
    last = count % CHUNK
    if count < CHUNK or not 0 < last < _FEW_IN_CHUNK:
        return []
    return [
        f"{role}: the last {last} of {count} images are a chunk of their own, which weighs as much as {CHUNK} in the "
        "Inception Score, as in ADM, and scores lower"
    ]
