"""``reals evaluate``: how far a set of samples is from a reference set, with intervals and the protocol used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reals.apps.evaluation_request import Extras, check_request, label_protocol, provenance
from reals.apps.grid import image_grid, save_png
from reals.evaluation.bootstrap import REPLICATES, Estimate, compare
from reals.evaluation.classes import MatchedClasses
from reals.evaluation.extras import clip_distance, copied_share, kernel_distance, more_estimates, per_class_distances
from reals.evaluation.feature_cache import features_of
from reals.evaluation.foundation import ClipFeatures
from reals.evaluation.image_sets import ImageSet, open_images
from reals.evaluation.inception import InceptionFeatures
from reals.evaluation.measures import Judged, Settings, judge, measure
from reals.evaluation.memorisation import NearestTraining, nearest_training
from reals.evaluation.metric_kinds import of_reconstructions, split_name
from reals.evaluation.networks import FeatureNetwork, lite_features
from reals.evaluation.paired import paired_estimates
from reals.evaluation.precision_recall import Arithmetic
from reals.evaluation.protocol import against_baseline, describe_method, describe_network, seal
from reals.evaluation.shared_extraction import main_first
from reals.evaluation.stored import StoredStatistics, stored_statistics
from reals.evaluation.subject import Subject, cautions
from reals.models.inception import POOL_DIMENSION, SPATIAL_DIMENSION
from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from reals.runtime.progress import say

_SUSPECTS = 24
_PAIRS_PER_ROW = 4

NO_FID = (
    "fid, sfid and inception score need the weights of the 2015 FID Inception network (--inception); fd/NETWORK is a "
    "Fréchet distance in another network's features and cannot be compared with published FIDs"
)


def evaluate(
    reference: str,
    samples: str,
    *,
    output: Path | None = None,
    baseline: str | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    network: FeatureNetwork | None = None,
    arithmetic: Arithmetic = "exact",
    labels: str | None = None,
    cache: Path | None = None,
    extras: Extras | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Compare samples with a reference; both are image files, a dataset, or a ``.npz`` in ADM's layout.

    Returns ``{"metrics": {name: {value, low, high}}, "warnings": [...], "protocol": {...}, "sha256": ...}``. With
    :class:`InceptionFeatures` as ``network`` the metrics are the ADM evaluator's: ``inception_score``, ``fid``,
    ``sfid``, ``precision`` and ``recall``, and statistics stored in a file replace computed ones. With any other
    network, EfficientNet-Lite0 unless given, they are ``fd/NETWORK``, ``precision/NETWORK`` and ``recall/NETWORK``.
    Under ``torchrun`` the processes share the networks' work, the main one measures and writes, and the others return
    an empty dictionary.

    Args:
        reference: what samples should look like.
        samples: what is judged.
        output: where to write the result as JSON.
        baseline: other samples; the result then has ``baseline``: their metrics, the differences to ``samples``, and
            why a metric of the two may not be compared where that is so.
        seed: of the bootstrap.
        replicates: of the bootstrap, behind the 95 % intervals over the images of both sets.
        network: whose features are compared.
        arithmetic: of precision and recall.
        labels: how classes of samples and baseline were chosen, for the protocol; read from their cards unless given.
        cache: a directory that keeps features; None computes them anew.
        extras: what to measure besides.
        size: the side to which image files and datasets are cropped as ADM does; otherwise sizes must agree.
        device: where distances are computed, and where the default network runs.

    Raises:
        UserError: what :func:`check_request` finds; a set cannot be read or mixes image sizes; features that are not
            finite.
        Interrupted: a signal asked the process to stop; nothing is written.
    """
    extras = Extras() if extras is None else extras
    settings = Settings(
        replicates=replicates,
        seed=seed,
        arithmetic=arithmetic,
        paired=extras.reconstructions,
        device=torch.device(device),
    )
    locations = {"reference": reference, "samples": samples} | ({} if baseline is None else {"baseline": baseline})
    with main_first():
        sets = {role: open_images(location, size) for role, location in locations.items()}
        classes = check_request(sets, extras, replicates=replicates, output=output)
        if network is None:
            network = lite_features(min(sets["reference"].height, sets["reference"].width), device)
        # Now, because a damaged file should be found before minutes of work.
        stored = {role: _stored(images, network) for role, images in sets.items()}
    networks = (network, *extras.others)
    features = {role: [features_of(images, each, cache) for each in networks] for role, images in sets.items()}
    if not dist.is_main():
        # The others are done: they would outwait the time that a collective operation may take.
        return {}
    subjects = {
        role: _subject(images, networks, features.pop(role), stored[role], labels, classes.get(role))
        for role, images in sets.items()
    }
    result = seal(_evaluate(subjects, networks, settings, extras))
    if output is not None:
        write_json(output, result)
    return result


def _stored(images: ImageSet, network: FeatureNetwork) -> StoredStatistics | None:
    if not isinstance(network, InceptionFeatures):
        return None
    return stored_statistics(images.location, pool=POOL_DIMENSION, spatial=SPATIAL_DIMENSION)


def _subject(
    images: ImageSet,
    networks: Sequence[FeatureNetwork],
    features: Sequence[np.ndarray],
    stored: StoredStatistics | None,
    labels: str | None,
    classes: MatchedClasses | None,
) -> Subject:
    try:
        judged = tuple(judge(some, network, stored) for some, network in zip(features, networks, strict=True))
    except ValueError as error:
        raise UserError(f"{images.location}: {error}") from None
    made = provenance(images.location)
    return Subject(images, labels or label_protocol(made), made, stored, judged, classes)


def _evaluate(
    subjects: Mapping[str, Subject], networks: Sequence[FeatureNetwork], settings: Settings, extras: Extras
) -> dict[str, Any]:
    warnings = cautions(subjects, networks)
    arms: dict[str, dict[str, Estimate]] = {}
    for role, subject in subjects.items():
        if role == "reference":
            continue
        arms[role], found = _measure(subjects["reference"], subject, networks, settings, extras)
        warnings += [f"{role}: {warning}" for warning in found]
    sections, found = _sections(subjects, arms, settings, extras)
    network, *others = networks
    protocol = {
        **{role: subject.describe() for role, subject in subjects.items()},
        "labels": subjects["samples"].labels,
        "network": describe_network(network),
        "more_networks": {other.name: describe_network(other) for other in others},
        **({} if extras.lpips is None else {"lpips_sha256": extras.lpips.fingerprint}),
        **describe_method(settings),
        **({} if isinstance(network, InceptionFeatures) else {"not_reported": NO_FID}),
    }
    result = {
        "metrics": _written(arms["samples"]),
        "warnings": warnings + found,
        "protocol": protocol,
        **sections["samples"],
    }
    if "baseline" in subjects:
        protocol["baseline"]["labels"] = subjects["baseline"].labels
        compared, found = _against_baseline(arms, protocol)
        result["baseline"] = {"metrics": _written(arms["baseline"]), "comparison": compared, **sections["baseline"]}
        result["warnings"] += found
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    return result


def _measure(
    reference: Subject, samples: Subject, networks: Sequence[FeatureNetwork], settings: Settings, extras: Extras
) -> tuple[dict[str, Estimate], list[str]]:
    """Return the metrics of one arm, and warnings."""
    warnings: list[str] = []
    own, *others = zip(reference.judged, samples.judged, networks, strict=True)
    try:
        estimates = measure(*own, settings)
        if extras.more:
            found, warnings = more_estimates(own[0], own[1], estimates, settings)
            estimates |= found
        for other in others:
            estimates |= _by_another(*other, settings)
    except ValueError as error:
        raise UserError(f"{samples.images.location}: {error}") from None
    if extras.reconstructions:
        found, more = paired_estimates(reference.images, samples.images, extras.lpips, settings)
        renamed = {of_reconstructions(name): value for name, value in estimates.items()}
        estimates, warnings = found | renamed, warnings + more
    return estimates, warnings


def _by_another(reference: Judged, samples: Judged, network: FeatureNetwork, settings: Settings) -> dict[str, Estimate]:
    if isinstance(network, ClipFeatures):
        return clip_distance(reference.features, samples.features, network.name, settings)
    return {**measure(reference, samples, network, settings), **kernel_distance(reference, samples, settings)}


def _sections(
    subjects: Mapping[str, Subject], arms: dict[str, dict[str, Estimate]], settings: Settings, extras: Extras
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what is no single number, by arm, and warnings; add what is a number to the arms."""
    reference = subjects["reference"]
    sections: dict[str, dict[str, Any]] = {role: {} for role in arms}
    warnings: list[str] = []
    for role, estimates in arms.items():
        samples = subjects[role]
        if (classes := samples.classes) is not None:
            ranked = per_class_distances(reference.judged[0], samples.judged[0], classes, settings)
            sections[role]["per_class"] = ranked.distances
            cautions = (*(() if classes.caution is None else (classes.caution,)), *ranked.cautions)
            warnings += [f"{role}: {caution}" for caution in cautions]
        if extras.nearest is not None:
            found = nearest_training(reference.judged[0].features, samples.judged[0].features, settings.device)
            estimates |= copied_share(found, samples.judged[0].suffix, settings)
            if role == "samples":
                _save_nearest(extras.nearest, reference.images, samples.images, found)
    return sections, warnings


def _save_nearest(path: Path, training: ImageSet, samples: ImageSet, found: NearestTraining) -> None:
    """Save a picture: rows of suspects, each followed by the training image nearest to it."""
    suspects = found.nearest_first(_SUSPECTS)
    pairs = np.stack([samples.take(suspects), training.take(found.index[suspects])], axis=1)
    save_png(path, image_grid(pairs.reshape(-1, *pairs.shape[2:]), 2 * _PAIRS_PER_ROW))


def _written(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return values and intervals, the latter cut where no true value lies."""
    written = {}
    for name, estimate in estimates.items():
        kind = split_name(name)[0]
        numbers = estimate.to_dict()
        written[name] = numbers | {
            bound: min(max(numbers[bound], kind.lowest), kind.highest) for bound in ("low", "high")
        }
    return written


def _against_baseline(
    arms: Mapping[str, Mapping[str, Estimate]], protocol: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return how the samples differ from the baseline, and why some of the differences mean nothing."""
    before, reasons = arms["baseline"], dict[str, None]()
    comparison: dict[str, dict[str, Any]] = {}
    for name, estimate in arms["samples"].items():
        if name not in before:
            continue
        comparison[name] = compare(before[name], estimate, split_name(name)[0].higher_is_better).to_dict()
        if found := against_baseline(name, protocol):
            comparison[name] |= {"verdict": "not comparable", "not_comparable": found}
            reasons |= dict.fromkeys(found)
    return comparison, [f"baseline and samples are not comparable: {reason}" for reason in reasons]
