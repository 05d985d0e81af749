"""Where photos come from: a folder, a zip, a Hugging Face dataset, behind one interface."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from reals.data.archive import ZipSource
from reals.data.folder import FolderSource
from reals.data.huggingface import HUB_PREFIX, HuggingFaceSource, parquet_files
from reals.runtime.errors import UserError


@runtime_checkable
class ImageSource(Protocol):
    """Named images with or without class labels, decoded one at a time, by any number of threads or processes."""

    @property
    def location(self) -> str:
        """Where the images are, for messages."""
        ...

    @property
    def keys(self) -> list[str]:
        """A unique name of each image that stays the same when others are added."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [n] in 0..len(class_names) - 1, or None for unlabelled images."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each label; empty for unlabelled images."""
        ...

    def load(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB; raises ``BrokenImage`` where it cannot be decoded."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when images are added, removed, renamed or replaced."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class BlockSource(Protocol):
    """A source that makes many images at once faster than one by one, each already ``size`` x ``size``."""

    size: int
    """Side of every image, in pixels."""

    def load_block(self, start: int, stop: int) -> np.ndarray:
        """Return images ``start`` up to, not including, ``stop``: uint8 [n, size, size, 3]."""
        ...


def open_source(location: str | Path) -> ImageSource:
    """Open the images at ``location``.

    ``location`` is a folder or zip of images (in class folders, or flat for unlabelled images), a Parquet file, a
    folder of Parquet files, or ``hf:owner/name[@config][:split]`` for a dataset on the Hugging Face hub.

    Raises:
        UserError: there is nothing there, or it is none of these, damaged, without images or ambiguous.
    """
    text = str(location)
    if text.startswith(HUB_PREFIX):
        return HuggingFaceSource.from_hub(text)
    path = Path(location).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; a dataset on the Hugging Face hub is written hf:owner/name")
    if path.is_dir():
        return HuggingFaceSource.from_parquet(path) if parquet_files(path) else FolderSource(path)
    try:
        with path.open("rb") as handle:
            magic = handle.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if magic == b"PAR1" or path.suffix.lower() == ".parquet":
        return HuggingFaceSource.from_parquet(path)
    if magic[:2] == b"PK" or path.suffix.lower() == ".zip":
        return ZipSource(path)
    raise UserError(f"{path}: neither a zip nor a Parquet file; give one of these, or a folder of images")
