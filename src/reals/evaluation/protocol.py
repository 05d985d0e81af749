"""The protocol card of an evaluation, and whether two cards allow their numbers to be compared."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from reals import __version__
from reals.evaluation.bootstrap import LEVEL
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.inception_score import CHUNK
from reals.evaluation.measures import Settings
from reals.evaluation.metric_kinds import KINDS, split_name
from reals.evaluation.networks import FeatureNetwork
from reals.evaluation.precision_recall import NEIGHBOURS
from reals.evaluation.stored import StoredStatistics
from reals.runtime.errors import UserError

DIGEST = "sha256"
"""Key of a result's own hash."""

_FRECHET = "means and covariances (divisor n - 1) in float64, symmetric eigenvalue form"
_SCORE = f"ADM: chunks of {CHUNK} in stored order, no bias, plain mean over chunks"
_INTERVALS = (
    "bootstrap over the images of both sets (of those whose statistics are not stored), linearised; of precision, "
    "recall, density and coverage by leaving one out; of shares of 0 or 1 Wilson's"
)


def describe_images(images: ImageSet, stored: StoredStatistics | None = None) -> dict[str, Any]:
    """Return what identifies a set of images; ``stored`` are statistics that stand in for computed ones."""
    described = {
        "location": images.location,
        "images": len(images),
        "size": f"{images.width}x{images.height}",
        "sha256": images.fingerprint(),
    }
    if images.crop is not None:
        described["crop"] = "ADM's centre crop"
    return described if stored is None else {**described, "statistics_sha256": stored.sha256}


def describe_network(network: FeatureNetwork) -> dict[str, Any]:
    """Return what identifies a network and what it does to images first."""
    return {
        "name": network.name,
        "dimension": network.dimension,
        "sha256": network.fingerprint,
        "resize": network.resize,
        "precision": "float32",
    }


def describe_method(settings: Settings) -> dict[str, Any]:
    """Return how numbers were computed, and with what versions."""
    return {
        "frechet": _FRECHET,
        "inception_score": _SCORE,
        "precision_recall": f"Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, {settings.arithmetic}, "
        "all images of both sets",
        "intervals": {
            "level": LEVEL,
            "method": _INTERVALS,
            "replicates": settings.replicates,
            "seed": settings.seed,
        },
        "versions": {
            "reals": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "pillow", "torch", "torchmetrics", "transformers")},
        },
    }


def seal(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with the hash of its content, so that a later change shows."""
    content = {key: value for key, value in result.items() if key != DIGEST}
    return {**content, DIGEST: _digest(content)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def one_line(result: Mapping[str, Any]) -> str:
    """Return the protocol of a result in one line, for a table's caption or a log."""
    protocol = result["protocol"]
    reference, samples, network = protocol["reference"], protocol["samples"], protocol["network"]
    statistics = reference.get("statistics_sha256")
    stored = "" if statistics is None else f" with stored statistics {statistics[:12]}"
    versions = ", ".join(f"{name} {protocol['versions'][name]}" for name in ("reals", "torch"))
    return (
        f"protocol: {samples['images']} samples {samples['sha256'][:12]} (labels {protocol['labels']}) against "
        f"{reference['images']} images {reference['sha256'][:12]}{stored}; {samples['size']}; "
        f"{network['name']} {network['sha256'][:12]}, {network['resize']}, {network['precision']}; "
        f"{protocol['precision_recall']}; {versions}; card {result[DIGEST][:12]}"
    )


def check_result(result: Any, location: str) -> None:
    """Check that a result is one of an evaluation and unchanged since it was written.

    Raises:
        UserError: it is not.
    """
    if not isinstance(result, dict) or not {"metrics", "protocol", DIGEST} <= set(result):
        raise UserError(f"{location}: is not the result of 'reals evaluate --out'; evaluate again with this version")
    try:
        sealed = seal(result)[DIGEST]
    except (TypeError, ValueError):
        sealed = ""
    if sealed != result[DIGEST]:
        raise UserError(f"{location}: was changed after it was written (its hash does not match); evaluate again")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each metric that both results have, why its two values may not be compared; empty: they may.

    Args:
        one: a result that :func:`check_result` accepts.
        other: another.
    """
    shared = [name for name in one["metrics"] if name in other["metrics"]]
    return {name: _reasons(name, one["protocol"], other["protocol"]) for name in shared}


def against_baseline(metric: str, protocol: Mapping[str, Any]) -> list[str]:
    """Return why a metric of the baseline and of the samples of one evaluation may not be compared; empty: they may."""
    baseline = protocol["baseline"]
    return _reasons(metric, {**protocol, "samples": baseline, "labels": baseline["labels"]}, protocol)


def _reasons(metric: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    if metric.partition("/")[0] not in KINDS:
        return ["unknown to this version of reals"]
    kind, name, network = split_name(metric)
    facts = [
        ("number of samples", _get(one, "samples", "images"), _get(other, "samples", "images")),
        ("size of the images", _get(one, "samples", "size"), _get(other, "samples", "size")),
        ("label protocol", one.get("labels"), other.get("labels")),
    ]
    if kind.network:
        facts += [
            (f"network's {key}", _network(one, network).get(key), _network(other, network).get(key))
            for key in ("sha256", "resize", "precision")
        ]
    if kind.gaussian:
        facts.append(("Fréchet formula", one.get("frechet"), other.get("frechet")))
    if kind.gaussian and not network:
        facts += [
            ("reference", _reference(one), _reference(other)),
            ("samples' stored statistics", *(_get(each, "samples", "statistics_sha256") for each in (one, other))),
        ]
    elif kind.reference:
        # Other networks than FID's, and measures that compare items, see the images whatever else is in the file.
        facts.append(("reference's images", _get(one, "reference", "sha256"), _get(other, "reference", "sha256")))
    if name == "lpips":
        facts.append(("LPIPS's weights", one.get("lpips_sha256"), other.get("lpips_sha256")))
    if kind.rounded:
        facts.append(("precision and recall", one.get("precision_recall"), other.get("precision_recall")))
    if name == "inception_score":
        facts.append(("Inception Score", one.get("inception_score"), other.get("inception_score")))
    return [f"{what}: {_short(a)} against {_short(b)}" for what, a, b in facts if a != b]


def _get(protocol: Mapping[str, Any], section: str, key: str) -> Any:
    return protocol.get(section, {}).get(key)


def _network(protocol: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    others = protocol.get("more_networks", {})
    return others[name] if name in others else protocol.get("network", {})


def _reference(protocol: Mapping[str, Any]) -> str:
    stored = _get(protocol, "reference", "statistics_sha256")
    return f"images {_get(protocol, 'reference', 'sha256')}" if stored is None else f"statistics {stored}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return " ".join(word[:12] if len(word) == 64 else word for word in text.split(" "))
