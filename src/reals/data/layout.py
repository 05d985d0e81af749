"""What a tree of image files means: classes by folder, or one flat set."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from reals.runtime.errors import UserError

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True)
class Layout:
    """Images of a tree and their classes."""

    prefix: str
    """Folders that wrap everything, ending in "/"; empty where there are none. Not part of the keys."""
    keys: list[str]
    """Image names below ``prefix``, POSIX separators, sorted."""
    labels: np.ndarray | None
    """int64 [n], indices into ``class_names``; None for a flat set."""
    class_names: tuple[str, ...]
    """Names of the class folders, sorted; empty for a flat set."""


def is_image(name: str) -> bool:
    """Return whether a relative POSIX name has an image's extension and no hidden or ``__MACOSX`` part."""
    parts = name.split("/")
    stem, dot, extension = parts[-1].rpartition(".")
    return bool(stem and dot) and extension.lower() in EXTENSIONS and not any(_is_hidden(part) for part in parts)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def arrange(names: Iterable[str], location: str) -> Layout:
    """Decide the classes of a tree from its relative POSIX names.

    Images in top-level folders (at any depth below them) are of the class that the top-level folder names; images at
    the top are a flat set without classes. A lone folder that wraps everything is looked into, so that a compressed
    folder means the same as the folder.

    Raises:
        UserError: there is no image, there are images both at the top and in folders, or the folders are splits.
    """
    images = sorted(name for name in names if is_image(name))
    if not images:
        raise UserError(f"{location}: no images found; looked for files ending in .{', .'.join(EXTENSIONS)}")
    prefix = ""
    while True:
        counts = Counter(name[len(prefix) :].partition("/")[0] for name in images if "/" in name[len(prefix) :])
        at_top = len(images) - counts.total()
        if at_top or len(counts) > 1:
            break
        prefix += next(iter(counts)) + "/"
    keys = [name[len(prefix) :] for name in images]
    where = f"{location}/{prefix}".rstrip("/") if prefix else location
    if not counts:
        return Layout(prefix, keys, None, ())
    if at_top:
        raise UserError(
            f"{where}: {at_top} images lie at the top and {counts.total()} in {len(counts)} folders; move every image "
            "into a class folder, or all of them to the top"
        )
    if all(name.lower() in _SPLITS for name in counts):
        raise UserError(f"{where}: its folders are splits ({', '.join(sorted(counts))}), not classes; give one of them")
    class_names = tuple(sorted(counts))
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number[key.partition("/")[0]] for key in keys], dtype=np.int64)
    return Layout(prefix, keys, labels, class_names)


def fingerprint_of(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines of text, as hexadecimal; file names that are not UTF-8 count by their bytes."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
