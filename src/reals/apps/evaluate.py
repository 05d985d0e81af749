"""``reals evaluate``: how far a set of samples is from a reference set, with intervals and the protocol used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reals.apps.grid import image_grid, save_png
from reals.evaluation.bootstrap import REPLICATES, Estimate, compare
from reals.evaluation.extras import clip_distance, copied_share, kernel_distance, more_estimates, per_class_distances
from reals.evaluation.feature_cache import features_of
from reals.evaluation.foundation import ClipFeatures, DinoFeatures
from reals.evaluation.image_sets import ImageSet, open_images
from reals.evaluation.inception import InceptionFeatures
from reals.evaluation.measures import (
    Judged,
    Settings,
    higher_is_better,
    judge,
    judge_by_inception,
    measure,
    measure_by_inception,
)
from reals.evaluation.memorisation import NearestTraining, nearest_training
from reals.evaluation.networks import FeatureNetwork, lite_features
from reals.evaluation.paired import ImageDistance, check_pairs, paired_estimates
from reals.evaluation.precision_recall import NEIGHBOURS, Arithmetic
from reals.evaluation.protocol import describe_images, describe_method, describe_network, one_line, seal
from reals.evaluation.shared_extraction import main_first
from reals.evaluation.stored import StoredStatistics, stored_statistics
from reals.models.inception import POOL_DIMENSION, SPATIAL_DIMENSION
from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json
from reals.runtime.progress import say

COMFORTABLE_COUNT = 10_000
"""Below this many images, Fréchet distances depend visibly on the number of images."""

_SUSPECTS = 24
_PAIRS_PER_ROW = 4

NO_FID = (
    "fid, sfid and inception score need the weights of the 2015 FID Inception network (--inception); fd/NETWORK is a "
    "Fréchet distance in another network's features and cannot be compared with published FIDs"
)


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Measures beyond the usual ones."""

    more: bool = False
    """``kid`` or ``kd/NETWORK``, ``density``, ``coverage`` and ``fid_infinity`` or ``fd_infinity/NETWORK``."""
    per_class: bool = False
    """The Fréchet distance of each class, as the result's ``per_class``."""
    nearest: Path | None = None
    """A picture of the samples that look most like copies of reference images, beside those; also ``copied``."""
    reconstructions: bool = False
    """Samples are reconstructions of the reference's images, in the same order: ``psnr``, ``ssim``, ``rfid``."""
    lpips: ImageDistance | None = None
    """Adds ``lpips`` to reconstructions."""
    others: tuple[DinoFeatures | ClipFeatures, ...] = ()
    """DINOv2 adds ``fd/…``, ``kd/…``, ``precision/…`` and ``recall/…``; CLIP adds ``cmmd/…``."""


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
        baseline: other samples; the result then has ``baseline``: their metrics and the differences to ``samples``.
        seed: of the bootstrap.
        replicates: of the bootstrap, behind the 95 % intervals over the images of both sets.
        network: whose features are compared.
        arithmetic: of precision and recall.
        labels: how the samples' classes were chosen, for the protocol; read from the samples' card unless given.
        cache: a directory that keeps features; None computes them anew.
        extras: what to measure besides.
        size: the side to which image files and datasets are cropped as ADM does; otherwise sizes must agree.
        device: where distances are computed, and where the default network runs.

    Raises:
        UserError: a set cannot be read, is too small, mixes image sizes, or the sets have different sizes; features
            that are not finite.
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
        sets = _open(locations, settings, size)
        if network is None:
            network = lite_features(min(sets["reference"].height, sets["reference"].width), device)
        labels = _labels(samples) if labels is None else labels
        # Now, because a damaged file should be found before minutes of work.
        stored = {role: _stored(images, network) for role, images in sets.items()}
    networks = (network, *extras.others)
    features = {role: [features_of(images, each, cache) for each in networks] for role, images in sets.items()}
    if not dist.is_main():
        # The others are done: they would outwait the time that a collective operation may take.
        return {}
    subjects = {role: _subject(images, network, stored[role], features.pop(role)) for role, images in sets.items()}
    result = seal(_evaluate(subjects, network, settings, extras, labels))
    if output is not None:
        write_json(output, result)
    return result


def _open(locations: Mapping[str, str], settings: Settings, size: int | None) -> dict[str, ImageSet]:
    if settings.replicates < 2:
        raise UserError(f"--replicates {settings.replicates}: an interval needs at least 2")
    sets = {role: open_images(location, size) for role, location in locations.items()}
    _check(sets)
    if settings.paired:
        for role in sets.keys() - {"reference"}:
            check_pairs(sets["reference"], sets[role])
    return sets


def _evaluate(
    subjects: Mapping[str, "_Subject"],
    network: FeatureNetwork,
    settings: Settings,
    extras: Extras,
    labels: str,
) -> dict[str, Any]:
    warnings = _warnings(subjects, network)
    arms: dict[str, dict[str, Estimate]] = {}
    for role in subjects:
        if role != "reference":
            arms[role], found = _measure(subjects, role, network, settings, extras)
            warnings += [f"{role}: {warning}" for warning in found]
    sections = _sections(subjects, arms, settings, extras)
    for warning in warnings:
        say(f"warning: {warning}")
    protocol = {
        **{role: _described(subject) for role, subject in subjects.items()},
        "labels": labels,
        "network": describe_network(network),
        "more_networks": {other.name: describe_network(other) for other in extras.others},
        **({} if extras.lpips is None else {"lpips_sha256": extras.lpips.fingerprint}),
        **describe_method(settings),
        **({} if isinstance(network, InceptionFeatures) else {"not_reported": NO_FID}),
    }
    return {**_result(arms, warnings, protocol), **sections}


@dataclass(frozen=True, eq=False)
class _Subject:
    images: ImageSet
    judged: Judged
    stored: StoredStatistics | None
    more: list[np.ndarray]
    """Features of the other networks, in their order."""


def _stored(images: ImageSet, network: FeatureNetwork) -> StoredStatistics | None:
    if not isinstance(network, InceptionFeatures):
        return None
    return stored_statistics(images.location, pool=POOL_DIMENSION, spatial=SPATIAL_DIMENSION)


def _subject(
    images: ImageSet, network: FeatureNetwork, stored: StoredStatistics | None, features: list[np.ndarray]
) -> _Subject:
    own, *more = features
    try:
        judged = judge_by_inception(own, stored) if isinstance(network, InceptionFeatures) else judge(own, network)
    except ValueError as error:
        raise UserError(f"{images.location}: {error}") from None
    return _Subject(images, judged, stored, more)


def _described(subject: _Subject) -> dict[str, Any]:
    described = describe_images(subject.images, subject.stored)
    return described if subject.images.crop is None else {**described, "crop": "ADM's centre crop"}


def _measure(
    subjects: Mapping[str, _Subject],
    role: str,
    network: FeatureNetwork,
    settings: Settings,
    extras: Extras,
) -> tuple[dict[str, Estimate], list[str]]:
    """Return the metrics of one arm, and warnings."""
    reference, samples = subjects["reference"], subjects[role]
    warnings: list[str] = []
    try:
        if isinstance(network, InceptionFeatures):
            estimates = measure_by_inception(reference.judged, samples.judged, network, settings)
        else:
            estimates = measure(reference.judged, samples.judged, settings)
        if extras.more:
            found, warnings = more_estimates(reference.judged, samples.judged, estimates, settings)
            estimates |= found
        for other, *features in zip(extras.others, reference.more, samples.more, strict=True):
            estimates |= _by_another(features, other, settings)
    except ValueError as error:
        raise UserError(f"{samples.images.location}: {error}") from None
    if extras.reconstructions:
        found, more = paired_estimates(reference.images, samples.images, extras.lpips, settings)
        renamed = {re.sub(r"^(s?fid|fd)\b|^(fid|fd)(?=_)", r"r\g<0>", name): value for name, value in estimates.items()}
        estimates, warnings = found | renamed, warnings + more
    return estimates, warnings


def _by_another(
    features: list[np.ndarray], network: DinoFeatures | ClipFeatures, settings: Settings
) -> dict[str, Estimate]:
    if isinstance(network, ClipFeatures):
        return clip_distance(features[0], features[1], network.name, settings)
    judged = [judge(some, network) for some in features]
    return {**measure(judged[0], judged[1], settings), **kernel_distance(judged[0], judged[1], settings)}


def _sections(
    subjects: Mapping[str, _Subject],
    arms: dict[str, dict[str, Estimate]],
    settings: Settings,
    extras: Extras,
) -> dict[str, Any]:
    """Return what is no single number, and add what is to the samples' metrics."""
    reference, samples = subjects["reference"], subjects["samples"]
    sections: dict[str, Any] = {}
    if extras.per_class:
        labels = [_classes(subject.images) for subject in (reference, samples)]
        sections["per_class"] = per_class_distances(reference.judged, samples.judged, *labels)
    if extras.nearest is not None:
        found = nearest_training(reference.judged.features, samples.judged.features, settings.device)
        arms["samples"] |= copied_share(found, samples.judged.suffix, settings)
        _save_nearest(extras.nearest, reference.images, samples.images, found)
    return sections


def _classes(images: ImageSet) -> np.ndarray:
    labels = images.labels()
    if labels is None:
        raise UserError(f"{images.location}: has no classes for --per-class; give labelled images")
    return labels


def _save_nearest(path: Path, training: ImageSet, samples: ImageSet, found: NearestTraining) -> None:
    """Save a picture: rows of suspects, each followed by the training image nearest to it."""
    suspects = found.nearest_first(_SUSPECTS)
    pairs = np.stack([samples.take(suspects), training.take(found.index[suspects])], axis=1)
    save_png(path, image_grid(pairs.reshape(-1, *pairs.shape[2:]), 2 * _PAIRS_PER_ROW))


def _check(sets: Mapping[str, ImageSet]) -> None:
    for images in sets.values():
        if len(images) <= NEIGHBOURS:
            raise UserError(f"{images.location}: holds {len(images)} images; give at least {NEIGHBOURS + 1}")
    reference = sets["reference"]
    for images in sets.values():
        if (reference.height, reference.width) != (images.height, images.width):
            raise UserError(
                f"{reference.location} has images of {reference.width}x{reference.height}, {images.location} of "
                f"{images.width}x{images.height}; bring both to one size first, for example by --size"
            )


def _warnings(subjects: Mapping[str, _Subject], network: FeatureNetwork) -> list[str]:
    """Return one line for each reason to distrust the numbers; called after all sets have been read."""
    warnings = []
    dimension = POOL_DIMENSION if isinstance(network, InceptionFeatures) else network.dimension
    if isinstance(network, InceptionFeatures) and not network.published:
        warnings.append("the Inception network's weights are not the published ones: compare with no published number")
    for role, subject in subjects.items():
        count = len(subject.images)
        if subject.stored is not None:
            if role != "reference":
                warnings.append(f"{role}: statistics stored in the file replace those of its images, as in ADM")
            if subject.stored.spatial is None:
                warnings.append(f"{role}: the file stores mu and sigma but not mu_s and sigma_s, so there is no sfid")
            continue
        if count < dimension + 1:
            warnings.append(
                f"{role}: {count} images leave the covariance of {dimension} features rank-deficient; "
                f"the Fréchet distance needs at least {dimension + 1} to mean anything"
            )
        elif count < COMFORTABLE_COUNT:
            warnings.append(
                f"{role}: {count} images, fewer than {COMFORTABLE_COUNT}; the Fréchet distance is biased "
                "upwards, compare it only with numbers of equally many images"
            )
    if subjects["reference"].stored is None and subjects["samples"].stored is not None:
        warnings.append("the samples have stored statistics and the reference has none: are they the wrong way round?")
    fingerprints = {role: subject.images.fingerprint() for role, subject in subjects.items()}
    if fingerprints["reference"] == fingerprints["samples"]:
        warnings.append("reference and samples hold the same images")
    if fingerprints.get("baseline") == fingerprints["samples"]:
        warnings.append("baseline and samples hold the same images")
    return warnings


def _labels(samples: str) -> str:
    """Return the label protocol that ``reals sample`` noted beside its images, else "unknown"."""
    card = Path(samples).with_suffix(".json")
    if Path(samples).suffix != ".npz" or not card.is_file():
        return "unknown"
    content = read_json(card)
    labels = content.get("labels") if isinstance(content, dict) else None
    kind = labels.get("type") if isinstance(labels, dict) else None
    return {"RandomLabels": "random", "BalancedLabels": "balanced"}.get(str(kind), "unknown")


def _result(
    arms: Mapping[str, Mapping[str, Estimate]], warnings: list[str], protocol: dict[str, Any]
) -> dict[str, Any]:
    metrics = {name: estimate.to_dict() for name, estimate in arms["samples"].items()}
    result = {"metrics": metrics, "warnings": warnings, "protocol": protocol}
    if "baseline" not in arms:
        return result
    before = arms["baseline"]
    result["baseline"] = {
        "metrics": {name: estimate.to_dict() for name, estimate in before.items()},
        "comparison": {
            name: compare(before[name], estimate, higher_is_better(name)).to_dict()
            for name, estimate in arms["samples"].items()
            if name in before
        },
    }
    return result


def render(result: Mapping[str, Any], width: int = 100) -> str:
    """Return an evaluation as a text table followed by what it was measured on and the protocol in one line."""
    from rich.console import Console
    from rich.table import Table

    columns = ["metric", "value", "95 % interval"]
    compared = result.get("baseline", {}).get("comparison", {})
    table = Table(*columns, *(["baseline", "difference", "95 % interval", ""] if compared else []))
    for name, numbers in result["metrics"].items():
        row = [name, f"{numbers['value']:.4g}", f"{numbers['low']:.4g} – {numbers['high']:.4g}"]
        if name in compared:
            found = compared[name]
            low, high = found["difference_interval"]
            row += [f"{found['baseline']:.4g}", f"{found['difference']:+.4g}", f"{low:+.4g} – {high:+.4g}"]
            row.append(found["verdict"])
        table.add_row(*row)
    console = Console(width=width, color_system=None, force_terminal=False)
    protocol = result["protocol"]
    with console.capture() as capture:
        console.print(table)
        for role in ("reference", "samples", "baseline"):
            if images := protocol.get(role):
                line = f"{role}: {images['images']} images of {images['size']}, {images['location']}"
                console.print(line, soft_wrap=True, markup=False)
        if "not_reported" in protocol:
            console.print(f"not reported: {protocol['not_reported']}", soft_wrap=True, markup=False)
        console.print(one_line(result), soft_wrap=True, markup=False)
    return capture.get().rstrip("\n")
