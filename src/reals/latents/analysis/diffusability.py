"""One number for how well a latent space may suit a diffusion model: a promise to be checked, not a measurement.

The components are what the literature found to go with good generation. Their directions are stated, their weights are
equal, and nothing is fitted. Whether the order they give is the order of generators trained later is an empirical
question: ``tools/rank_correlation.py`` answers it for finished runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reals.latents.analysis.correlation import ranks

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Component:
    """One measurement that the score counts."""

    name: str
    """Of the measurement; ``*`` at its end stands for any feature network."""
    better: Better
    """Which way good spaces lie."""
    because: str
    """Why it is believed to matter."""


COMPONENTS = (
    Component("interpolation_fd/*", "lower", "decoded midpoints of neighbouring latents look like photos (2603.05630)"),
    Component(
        "spectrum/high_share_centred", "lower", "less energy at fine scales, which diffusion makes last (2502.14831)"
    ),
    Component("equivariance_centred/half", "lower", "a shrunk image has the shrunk latent (2502.09509)"),
    Component("semantic_consistency/all/centred", "higher", "augmented views of an image stay alike (2502.00359)"),
    Component("latents/knn_accuracy", "higher", "images of a class lie together"),
    Component("latents/dead_share", "lower", "channels without content are noise that must be generated all the same"),
)


@dataclass(frozen=True)
class Diffusability:
    """The score of several spaces, and what it is made of."""

    score: dict[str, float]
    """Mean over components of the share of other spaces that a space beats, ties counting half: 1 is best in all."""
    points: dict[str, dict[str, float]]
    """The same of each component used: component -> space -> share beaten."""
    left_out: tuple[str, ...]
    """Components that some space lacks."""


def diffusability(
    spaces: Mapping[str, Mapping[str, float]], components: Sequence[Component] = COMPONENTS
) -> Diffusability | None:
    """Rank spaces by each component and average; None for fewer than two spaces or without a common component.

    With k spaces, one of rank r from the worst gets (r - 1) / (k - 1) points. Values that agree to three significant
    digits tie: their order would be noise. The score compares the given spaces only:
    it changes when others are added, and it says nothing of how much better a space is.
    """
    if len(spaces) < 2:
        return None
    points: dict[str, dict[str, float]] = {}
    left_out: list[str] = []
    for component in components:
        values = component_values(spaces, component)
        if values is None:
            left_out.append(component.name)
            continue
        oriented = np.array([_rounded(value) for value in values.values()]) * (
            1.0 if component.better == "higher" else -1.0
        )
        shares = (ranks(oriented) - 1.0) / (len(spaces) - 1)
        points[component.name] = dict(zip(values, shares.tolist(), strict=True))
    if not points:
        return None
    score = {space: float(np.mean([shares[space] for shares in points.values()])) for space in spaces}
    return Diffusability(score, points, tuple(left_out))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def component_values(spaces: Mapping[str, Mapping[str, float]], component: Component) -> dict[str, float] | None:
    """Return each space's value of a component, or None if one lacks it.

    Of several feature networks, one that a space's own alignment cannot have seen comes first: ``classifier``, then
    ``rotation``.
    """
    for name in _names(spaces, component.name):
        if all(name in measured for measured in spaces.values()):
            return {space: measured[name] for space, measured in spaces.items()}
    return None


def _names(spaces: Mapping[str, Mapping[str, float]], pattern: str) -> list[str]:
    if not pattern.endswith("*"):
        return [pattern]
    prefix = pattern.removesuffix("*")
    found = {name for measured in spaces.values() for name in measured if name.startswith(prefix)}
    order = ("classifier", "rotation")
    return sorted(found, key=lambda name: (not name.endswith(order), name))
