"""What an evaluation is asked for, and every mistake in it that shows before any work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.evaluation.classes import MatchedClasses, class_labels, matched_classes
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.networks import FeatureNetwork
from reals.evaluation.paired import ImageDistance, check_pairs
from reals.evaluation.precision_recall import NEIGHBOURS
from reals.runtime.errors import UserError
from reals.runtime.io import check_writable, read_json

# Four poolings, each of which halves the side.
_SMALLEST_FOR_LPIPS = 16


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Measures beyond the usual ones."""

    more: bool = False
    """``kid`` or ``kd/NETWORK``, ``density``, ``coverage`` and ``fid_infinity`` or ``fd_infinity/NETWORK``."""
    per_class: bool = False
    """The Fréchet distance of each class of the samples, as the result's ``per_class``."""
    nearest: Path | None = None
    """A picture of the samples that look most like copies of reference images, beside those; also their ``copied``."""
    reconstructions: bool = False
    """Samples are reconstructions of the reference's images, in the same order: ``psnr``, ``ssim``, ``rfid``."""
    lpips: ImageDistance | None = None
    """Adds ``lpips`` to reconstructions."""
    others: tuple[FeatureNetwork, ...] = ()
    """Other networks, of DINOv2 for example; each adds ``fd/…``, ``kd/…``, ``precision/…`` and ``recall/…``. CLIP adds
    ``cmmd/…`` alone."""


def check_request(
    sets: Mapping[str, ImageSet], extras: Extras, *, replicates: int, output: Path | None
) -> dict[str, MatchedClasses]:
    """Look for mistakes in what is asked for; return the classes, if asked for, of every role but the reference.

    Args:
        sets: by role; "reference", and "samples" and "baseline" as far as they exist already.
        extras: what to measure besides the usual.
        replicates: of the bootstrap.
        output: where the result will be written.

    Raises:
        UserError: there is one.
    """
    if replicates < 2:
        raise UserError(f"--replicates {replicates}: an interval needs at least 2")
    _check_sets(sets)
    names = [network.name for network in extras.others]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two networks are called '{name}', after their directories; rename one of these")
    if extras.reconstructions:
        for images in sets.values():
            check_pairs(sets["reference"], images)
    smaller = min(sets["reference"].height, sets["reference"].width)
    if extras.lpips is not None and smaller < _SMALLEST_FOR_LPIPS:
        raise UserError(f"--lpips needs images of at least {_SMALLEST_FOR_LPIPS} pixels, not {smaller}; leave it out")
    classes = _matched(sets) if extras.per_class else {}
    for flag, path in (("--out", output), ("--nearest", extras.nearest)):
        if path is not None:
            check_writable(path, flag)
            _check_overwritten(path, flag, sets)
    if output is not None and output.exists():
        _check_earlier_result(output)
    return classes


def _matched(sets: Mapping[str, ImageSet]) -> dict[str, MatchedClasses]:
    reference = sets["reference"]
    matched = {role: matched_classes(reference, images) for role, images in sets.items() if role != "reference"}
    if not matched:
        # The samples are still to be made.
        class_labels(reference)
    return matched


def _check_overwritten(path: Path, flag: str, sets: Mapping[str, ImageSet]) -> None:
    for role, images in sets.items():
        for inside in (Path(images.location).expanduser(), card_of(images.location)):
            if inside is not None and path.resolve() == inside.resolve():
                raise UserError(f"{path}: belongs to the {role}; give another {flag}")


def _check_earlier_result(output: Path) -> None:
    try:
        content = read_json(output)
    except UserError:
        content = None
    if not (isinstance(content, dict) and {"metrics", "protocol"} <= content.keys()):
        raise UserError(f"{output}: exists and is no result of 'reals evaluate'; give another --out")


def _check_sets(sets: Mapping[str, ImageSet]) -> None:
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


def card_of(location: str) -> Path | None:
    """Return the JSON file that ``reals sample`` writes beside its ``.npz``, if there is one."""
    path = Path(location).expanduser()
    card = path.with_suffix(".json")
    return card if path.suffix.lower() == ".npz" and card.is_file() else None


def provenance(location: str) -> dict[str, Any] | None:
    """Return what ``reals sample`` noted beside its ``.npz``: generator, autoencoder, solver, guidance and so on."""
    card = card_of(location)
    try:
        content = None if card is None else read_json(card)
    except UserError:
        content = None
    # Any other file may have that name.
    return content if isinstance(content, dict) and {"count", "labels", "provenance"} <= content.keys() else None


def label_protocol(made: Mapping[str, Any] | None) -> str:
    """Return how classes of samples were chosen according to their :func:`provenance`, else "unknown"."""
    labels = None if made is None else made.get("labels")
    kind = labels.get("type") if isinstance(labels, dict) else None
    return {"RandomLabels": "random", "BalancedLabels": "balanced"}.get(str(kind), "unknown")
