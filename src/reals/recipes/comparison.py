"""The answer of a run: the arms side by side, what changed, how sure that is, and how it was measured."""

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from reals import __version__
from reals.apps.generate import BalancedLabels
from reals.diffusion.process import steps_of
from reals.evaluation.bootstrap import compare
from reals.evaluation.classifier import PhotoClassifier
from reals.models.semantic import EfficientNetLite0
from reals.recipes.measure import Judges, Measurements
from reals.recipes.schema import Recipe
from reals.recipes.workspace import RunDirectory
from reals.runtime import dist
from reals.runtime.config import to_dict
from reals.runtime.io import read_json

# The photos' own distance is the same for every arm: there is nothing to compare.
_SHARED = "real/"


def higher_is_better(name: str) -> bool | None:
    """Return which way a measurement improves, or None for one that only describes."""
    part = name.split("/")
    if name.startswith("reconstruction/") or part[-1].endswith(("accuracy", "accuracy_pooled")):
        return True
    if any(key in part for key in ("precision", "recall", "class_agreement")):
        return True
    if any(key in part for key in ("fd", "fd_to_reconstructions")):
        return False
    # Raw consistency is not judged: a template shared by all latents raises it too.
    return True if name == "semantic_consistency/centred" else None


def compare_arms(baseline: Measurements, aligned: Measurements) -> dict[str, dict[str, Any]]:
    """Return, per measurement, both values and their relative change with its 95 % bootstrap interval.

    Where the baseline is not safely positive the interval is of the difference; where there are no replicates (an
    extreme) there is none.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name in baseline:
        if name not in aligned or name.startswith(_SHARED):
            continue
        before, after = baseline[name], aligned[name]
        better = higher_is_better(name)
        entry: dict[str, Any] = {
            "baseline": before.value,
            "aligned": after.value,
            "difference": after.value - before.value,
            "relative_change": after.value / before.value - 1 if before.value > 0 else None,
            "interval": None,
            "interval_of": "relative_change",
            "better": None if better is None else ("higher" if better else "lower"),
        }
        if not (np.isnan(before.replicates).any() or np.isnan(after.replicates).any()):
            change = compare(before, after, higher_is_better=bool(better))
            relative = change.relative_interval
            entry["relative_change"] = change.relative_change
            entry["interval"] = list(change.difference_interval if relative is None else relative)
            entry["interval_of"] = "difference" if relative is None else "relative_change"
        changes[name] = entry
    return changes


def protocol(judges: Judges, location: str, command: str) -> dict[str, Any]:
    """Return everything that someone must know to repeat or to doubt the numbers."""
    recipe, store = judges.recipe, judges.store
    sampling = recipe.sampling
    return {
        **({"command": command} if command else {}),
        "data": {
            "location": location,
            "fingerprint": store.fingerprint,
            "images": len(store),
            "train": len(store.train),
            "held_out": len(store.held_out),
            "classes": list(store.class_names),
            "image_size": store.size,
        },
        "reference": {
            "what": "training photos, original views",
            "count": len(judges.reference_rows),
            "hash": judges.reference_hash,
        },
        "reconstructions": {"what": "held-out photos, decoded posterior means", "count": len(judges.held_out)},
        "samples": {
            "count": sampling.count,
            "labels": "balanced" if isinstance(sampling.labels, BalancedLabels) else "random",
            "solver": type(sampling.solver).__name__,
            "steps": steps_of(sampling.solver),
            "guidance": list(sampling.scales(labelled=store.labelled)),
            "interval": list(sampling.guidance_interval),
            "seed": recipe.sampling_seed,
        },
        "feature_networks": {network.name: _describe(network, recipe) for network in judges.networks},
        "fid": "not measured here: `reals evaluate --inception FILE` measures it on the samples",
        "bootstrap": {
            "replicates": judges.replicates,
            "level": 0.95,
            "covers": "the choice of photos and samples; one training run per arm, so not the training seed",
        },
        "processes": dist.world_size(),
        "versions": versions(),
        "recipe": to_dict(recipe),
    }


def _describe(network: Any, recipe: Recipe) -> dict[str, Any]:
    described = {"dimension": network.dimension, "fingerprint": network.fingerprint, "resize": network.resize}
    if isinstance(network, PhotoClassifier):
        return described | {
            "trained_on": "the run's training photos" + (", rotations" if network.record.rotation else ", labels"),
            "held_out_accuracy": network.record.held_out_accuracy,
            "seen_by_alignment": False,
        }
    # A distance in the features that alignment trained on flatters the aligned arm.
    return described | {"trained_on": "ImageNet", "seen_by_alignment": isinstance(recipe.semantic, EfficientNetLite0)}


def versions() -> dict[str, str]:
    """Return the versions of everything that computes."""
    packages = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scikit-learn", "torchmetrics")
    return {"reals": __version__, "python": platform.python_version()} | {name: version(name) for name in packages}


def result(
    judges: Judges, run: RunDirectory, location: str, command: str, measured: dict[str, Measurements]
) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    arms = {arm: {name: estimate.value for name, estimate in values.items()} for arm, values in measured.items()}
    both = {"baseline", "aligned"} <= measured.keys()
    return {
        "format": 1,
        "complete": True,
        "arms": arms,
        "comparison": compare_arms(measured["baseline"], measured["aligned"]) if both else {},
        "speed": {arm: _speed(run, arm) for arm in measured},
        "protocol": protocol(judges, location, command),
    }


def _speed(run: RunDirectory, arm: str) -> dict[str, dict[str, float | None]]:
    path = run.arm(arm).timings
    stages = read_json(path) if path.exists() else {}
    return {
        stage: {
            "seconds": entry["seconds"],
            "images_per_second": entry["images"] / entry["seconds"] if entry["images"] else None,
        }
        for stage, entry in stages.items()
    }
