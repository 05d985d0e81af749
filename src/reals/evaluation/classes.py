"""The classes of two sets brought to the same numbers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from reals.evaluation.image_sets import LABELS, ImageSet
from reals.runtime.errors import UserError, nearest


@dataclass(frozen=True, eq=False)
class MatchedClasses:
    """Labels of two sets, the same number for the same class."""

    reference: Int[np.ndarray, " n"]
    samples: Int[np.ndarray, " m"]
    names: tuple[str, ...] | None
    """Of the classes by number, where either set names them."""
    caution: str | None
    """What was taken for granted, if anything was."""


def matched_classes(reference: ImageSet, samples: ImageSet) -> MatchedClasses:
    """Match classes by name where both sets name them, else by number.

    Raises:
        UserError: a set has no labels, or the samples have a class that the reference has not.
    """
    labels = [class_labels(images) for images in (reference, samples)]
    names, own = reference.class_names, samples.class_names
    if names is None or own is None:
        known = names or own
        caution = None if known is None else _by_number(reference, samples, known)
        return MatchedClasses(labels[0], labels[1], known, caution)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = next((name for name in own if name not in numbers), None)
    if unknown is not None:
        raise UserError(
            f"{samples.location}: has a class '{unknown}', which {reference.location} has not{nearest(unknown, names)}"
        )
    return MatchedClasses(labels[0], np.array([numbers[name] for name in own])[labels[1]], names, None)


def class_labels(images: ImageSet) -> Int[np.ndarray, " n"]:
    """Return the class of each image.

    Raises:
        UserError: the set has no labels.
    """
    labels = images.labels()
    if labels is None:
        raise UserError(
            f"{images.location}: has no classes for --per-class; give images in class folders, a labelled dataset, or "
            f"a batch with an integer for each image under '{LABELS}'"
        )
    return labels


def _by_number(reference: ImageSet, samples: ImageSet, names: tuple[str, ...]) -> str:
    nameless = samples if samples.class_names is None else reference
    return f"classes are matched by number: {nameless.location} names none, its class 0 is taken for '{names[0]}'"
