"""Photos decoded and cropped once, kept as bytes that training reads at the speed of the disk."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reals.data.decoding import Decoding, UnfitImages
from reals.data.layout import fingerprint_of
from reals.data.sources import ImageSource
from reals.data.split import held_out_mask
from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_path, read_json, write_json
from reals.runtime.progress import say
from reals.runtime.shards import ShardedArrays

_FORMAT = 1
_SUMMARY = "store.json"
_KEYS = "keys.json"
_INDEX = "index.npz"
_IMAGES = "images"


def prepare_images(source: ImageSource, directory: str | Path, size: int, held_out_fraction: float) -> None:
    """Decode every image of ``source`` once and keep its ADM centre crop, ``size`` x ``size``, under ``directory``.

    An interrupted call is continued by the same call; a finished one returns at once. Under ``torchrun`` the
    processes share the work. Images that cannot be decoded are left out and listed in ``skipped.json``;
    ``store.json``, written last, marks the store as whole.

    Raises:
        UserError: ``directory`` holds other images or another size or split; there are fewer than two images; more
            than 1 % cannot be decoded; an image is smaller than ``size``; or the split leaves one side empty.
        Interrupted: a signal asked the process to stop; finished shards stay.
    """
    directory = Path(directory)
    if size < 1:
        raise UserError(f"image size {size} is not a positive number of pixels")
    if len(source) < 2:
        raise UserError(f"{source.location}: has {len(source)} image; at least 2 are needed")
    # Before hours of decoding: a split that is impossible for all images is impossible for the readable ones.
    held_out_mask(source.keys, held_out_fraction, source.location)
    settings = {
        "format": _FORMAT,
        "fingerprint": source.fingerprint(),
        "size": size,
        "held_out_fraction": held_out_fraction,
    }
    if ImageStore.complete(directory):
        _require_same(directory, settings, source.location)
        return
    decoding = Decoding(source, size, directory / _IMAGES)
    try:
        decoding.run(settings["fingerprint"])
        if dist.is_main():
            usable = _skip_broken(decoding, source, directory)
            _write_index(source, directory, usable, settings)
    except UnfitImages:
        decoding.discard()
        raise
    dist.barrier()


def _require_same(directory: Path, settings: dict[str, Any], location: str) -> None:
    stored = read_json(directory / _SUMMARY)
    advice = "give another directory, or delete this one"
    if stored.get("format") != _FORMAT:
        raise UserError(f"{directory}: holds images prepared by another version of this program; {advice}")
    if stored["fingerprint"] != settings["fingerprint"]:
        raise UserError(f"{directory}: holds images of {stored['source']} that are not those of {location}; {advice}")
    for name, unit in (("size", "image size"), ("held_out_fraction", "held-out fraction")):
        if stored[name] != settings[name]:
            raise UserError(f"{directory}: was prepared with {unit} {stored[name]}, not {settings[name]}; {advice}")


def _skip_broken(decoding: Decoding, source: ImageSource, directory: Path) -> np.ndarray:
    """Write which images are left out and return the others' rows."""
    valid = ShardedArrays(directory / _IMAGES).all("valid")
    reasons = decoding.explain(np.flatnonzero(~valid))
    decoding.list_broken(reasons)
    if reasons:
        names = ", ".join(source.keys[row] for row in list(reasons)[:3]) + (", ..." if len(reasons) > 3 else "")
        say(
            f"{source.location}: left out {len(reasons)} of {len(source)} images that cannot be read ({names}); "
            f"all are listed in {decoding.skipped_path}"
        )
    return np.flatnonzero(valid)


def _write_index(source: ImageSource, directory: Path, usable: np.ndarray, settings: dict[str, Any]) -> None:
    keys = [source.keys[row] for row in usable.tolist()]
    held_out = held_out_mask(keys, settings["held_out_fraction"], source.location)
    labels = np.zeros(len(usable), dtype=np.int64) if source.labels is None else source.labels[usable]
    with atomic_path(directory / _INDEX) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, rows=usable, labels=labels, held_out=held_out)
    write_json(directory / _KEYS, keys)
    summary = {
        "source": source.location,
        "labelled": source.labels is not None,
        "class_names": list(source.class_names),
        "images": len(usable),
        "train": int((~held_out).sum()),
        "held_out": int(held_out.sum()),
    }
    write_json(directory / _SUMMARY, {**settings, **summary})
    classes = f" of {len(source.class_names)} classes" if source.labels is not None else ", unlabelled"
    say(
        f"{directory}: {summary['images']} images{classes}, {settings['size']} x {settings['size']}: "
        f"{summary['train']} to train on, {summary['held_out']} held out"
    )


class ImageStore:
    """Images written by :func:`prepare_images`: rows 0..n-1 are the usable ones, in the order of the source.

    A worker process that is handed a store opens its files anew.
    """

    images: ShardedArrays
    """One array, "image": uint8 [size, size, 3] per row."""
    size: int
    """Side of every image, in pixels."""
    labelled: bool
    """Whether the source had classes. Without, every label is 0 and ``num_classes`` is 1."""
    num_classes: int
    """Number of classes, those without an image included; 1 for unlabelled images."""
    class_names: tuple[str, ...]
    """A name for each class; empty for unlabelled images."""
    labels: np.ndarray
    """int64 [n]."""
    train: np.ndarray
    """int64 rows to train on, ascending."""
    held_out: np.ndarray
    """int64 rows kept for measuring, ascending; empty where the held-out fraction is 0."""
    fingerprint: str
    """SHA-256 over the source's fingerprint, the size, the split and the usable rows."""

    def __init__(self, directory: str | Path):
        """Open a prepared directory.

        Raises:
            UserError: it is not a whole store, or one of another version.
        """
        self.directory = Path(directory)
        if not self.complete(self.directory):
            raise UserError(f"{self.directory}: no prepared images here (no {_SUMMARY}); prepare them first")
        summary = read_json(self.directory / _SUMMARY)
        if summary.get("format") != _FORMAT:
            raise UserError(f"{self.directory}: prepared by another version of this program; prepare the images again")
        with np.load(self.directory / _INDEX, allow_pickle=False) as index:
            rows, self.labels, held_out = index["rows"], index["labels"], index["held_out"]
        self.images = _UsableRows(self.directory / _IMAGES, rows)
        self.size = summary["size"]
        self.labelled = summary["labelled"]
        self.class_names = tuple(summary["class_names"])
        self.num_classes = len(self.class_names) if self.labelled else 1
        self.train, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        identity = (summary["fingerprint"], summary["size"], summary["held_out_fraction"], rows.tolist())
        self.fingerprint = fingerprint_of(str(part) for part in identity)

    @staticmethod
    def complete(directory: str | Path) -> bool:
        """Return whether :func:`prepare_images` has finished ``directory``."""
        return (Path(directory) / _SUMMARY).exists()

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> "tuple[type[ImageStore], tuple[Path]]":
        # Copied to a worker process, an open memory map would become the array itself.
        return (ImageStore, (self.directory,))

    @cached_property
    def keys(self) -> list[str]:
        """The source's name of each row."""
        return read_json(self.directory / _KEYS)

    def load(self, rows: np.ndarray) -> UInt8[np.ndarray, "k h w 3"]:
        """Return copies of the images of ``rows``, in their order."""
        return self.images.gather("image", rows)


class _UsableRows(ShardedArrays):
    """Shards of which only some rows count; the others are gaps that broken images left."""

    def __init__(self, directory: Path, usable: np.ndarray):
        super().__init__(directory)
        self._usable = usable
        self.rows = len(usable)

    def gather(self, name: str, indices: np.ndarray, view: int | np.ndarray | None = None) -> np.ndarray:
        return super().gather(name, self._usable[np.asarray(indices, dtype=np.int64)], view)
