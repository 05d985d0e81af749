"""Did the promise hold? Rank correlation of what was known before training with how far samples were from photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reals.latents.analysis.correlation import RankCorrelation, spearman
from reals.latents.analysis.diffusability import COMPONENTS, Component, component_values, diffusability
from reals.recipes.analysis import values_of
from reals.runtime.errors import UserError, nearest
from reals.runtime.io import read_json

TARGET = "samples/guidance-1/fd/classifier"
"""The distance that is predicted unless another is asked for: unguided, in features that alignment never saw."""

CANDIDATES = (
    *COMPONENTS,
    Component("reconstructions/fd/*", "lower", "what the decoder loses"),
    Component("interpolation_excess/*", "lower", "what mixing adds to that"),
    Component("interpolation_fd_random/*", "lower", "midpoints of any two latents"),
    Component("spectrum/high_share", "lower", "energy at fine scales, the template included"),
    Component("equivariance/half", "lower", "a shrunk image has the shrunk latent, the template included"),
    Component("reconstruction/psnr", "higher", "pixel fidelity"),
    Component("latents/linear_probe_accuracy_pooled", "higher", "classes in the mean over positions"),
    Component("semantic/cka_pooled", "higher", "likeness to a semantic encoder"),
    Component("latents/position_share", "lower", "a template instead of content"),
    Component("latents/kl", "lower", "less to be generated"),
    Component("rank/cells_share", "higher", "channels that are all used"),
)
"""Numbers whose prediction is looked at: those that the score counts, then others that it might."""


@dataclass(frozen=True)
class TrainedSpace:
    """A latent space in which a generator has been trained and measured."""

    run: Path
    arm: str
    measured: dict[str, float]
    """What was known before: the numbers of its analysis."""
    distance: float
    """What came out: the Fréchet distance of samples."""
    judge: str
    """Fingerprint of the network that measured it."""


@dataclass(frozen=True)
class Prediction:
    """How well one number orders trained spaces; positive ρ means that promising spaces had smaller distances."""

    name: str
    better: str
    correlation: RankCorrelation | None
    """None where it is not defined: too few spaces, or all alike."""
    pairs_right: int
    """Pairs of arms of one run that it orders rightly."""
    pairs: int
    """Pairs of arms of one run that it orders at all."""


def trained_spaces(runs: Sequence[Path], target: str = TARGET) -> list[TrainedSpace]:
    """Read the analysed arms of finished runs.

    Raises:
        UserError: a run is not analysed or not measured, or lacks the target.
    """
    return [space for run in runs for space in _of_run(run, target)]


def _of_run(run: Path, target: str) -> list[TrainedSpace]:
    path = run / "analysis" / "analysis.json"
    if not path.exists():
        raise UserError(f"{run}: is not analysed; first: reals analyze {run}")
    metrics = read_json(run / "metrics.json")
    judge = metrics["protocol"]["feature_networks"].get(target.rpartition("/")[2], {}).get("fingerprint", "")
    found = []
    for space in read_json(path)["spaces"]:
        measured: dict[str, Any] = metrics["arms"].get(space["name"], {})
        if target not in measured:
            distances = [name for name in measured if name.startswith("samples/") and "/fd/" in name]
            raise UserError(f"{run}: the arm {space['name']} has no '{target}'{nearest(target, distances)}")
        found.append(TrainedSpace(run, space["name"], values_of(space), measured[target], judge))
    return found


def predictions(spaces: Sequence[TrainedSpace]) -> list[Prediction]:
    """Return how well the score, its components and other candidates order the spaces."""
    measured = {f"{number}": space.measured for number, space in enumerate(spaces)}
    found = []
    ranked = diffusability(measured)
    if ranked is not None:
        found.append(_predict("diffusability", "higher", list(ranked.score.values()), spaces))
    for candidate in CANDIDATES:
        values = component_values(measured, candidate)
        if values is not None:
            found.append(_predict(candidate.name, candidate.better, list(values.values()), spaces))
    return found


def _predict(name: str, better: str, values: list[float], spaces: Sequence[TrainedSpace]) -> Prediction:
    promise = np.array(values) * (1.0 if better == "higher" else -1.0)
    distance = np.array([space.distance for space in spaces])
    right = pairs = 0
    for first in range(len(spaces)):
        for second in range(first + 1, len(spaces)):
            same_run = spaces[first].run == spaces[second].run
            if same_run and promise[first] != promise[second] and distance[first] != distance[second]:
                pairs += 1
                right += bool((promise[first] > promise[second]) == (distance[first] < distance[second]))
    return Prediction(name, better, spearman(promise, -distance), right, pairs)
