"""Sets of images to compare, read in blocks: image files, Hugging Face datasets and ADM's ``.npz`` batches."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from reals.data.ahead import load_ahead
from reals.data.crop import centre_crop
from reals.data.decode import BrokenImage
from reals.data.huggingface import HUB_PREFIX
from reals.data.sources import open_source
from reals.evaluation.npz_array import DAMAGE, OpenArray, broken, exactly, reason
from reals.runtime.errors import UserError

DIGEST_BYTES = 32
"""Of an image's SHA-256."""

LABELS = "arr_1"
"""Where batches of samples hold their classes: integers ``[n]``."""

# Images that are decoded before they are asked for, where a few are taken.
_AHEAD = 64


class ImageSet(ABC):
    """Equally large images behind a location, read in blocks; each image's pixels are hashed while they pass."""

    location: str
    height: int
    width: int
    crop: int | None = None
    """The side to which images are cropped on reading; None for images that are taken as they are."""

    def __init__(self, count: int) -> None:
        """Start with ``count`` images of which none is hashed."""
        self._digests = np.zeros((count, DIGEST_BYTES), np.uint8)
        self._hashed = np.zeros(count, bool)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._hashed)

    @abstractmethod
    def _read(self, batch: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
        """Yield uint8 blocks of ``batch`` images in order: block ``first`` and each ``every``-th from there on."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each image in its order, empty where images have none."""
        return ()

    @abstractmethod
    def labels(self) -> np.ndarray | None:
        """Return the class of each image, int64 ``[n]``, or None where the set does not say."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes that :meth:`labels` index into, or None where they have none."""
        return None

    def take(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Return some images in the order asked for; reads the others before the last of them only if it must.

        Raises:
            UserError: one of them is broken or of another size than the first, or the file ends too early.
        """
        found: dict[int, np.ndarray] = {}
        wanted, start = {int(index) for index in indices}, 0
        for block in self._read(256):
            found |= {start + row: block[row] for row in range(len(block)) if start + row in wanted}
            start += len(block)
            if len(found) == len(wanted):
                break
        return np.stack([found[int(index)] for index in indices])

    def blocks(self, batch: int, first: int = 0, every: int = 1) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
        """Yield blocks of at most ``batch`` images, in order: all, or block ``first`` and each ``every``-th after it.

        Raises:
            UserError: an image is broken or of another size than the first, or the file ends too early.
        """
        for number, block in enumerate(self._read(batch, first, every)):
            start = (first + number * every) * batch
            if not self._hashed[start : start + len(block)].all():
                digests = [hashlib.sha256(image.data).digest() for image in np.ascontiguousarray(block)]
                self.learn(start, np.frombuffer(b"".join(digests), np.uint8).reshape(len(block), DIGEST_BYTES))
            yield block

    @property
    def hashed(self) -> bool:
        """Whether :meth:`fingerprint` is known already."""
        return bool(self._hashed.all())

    def digests(self, start: int, stop: int) -> UInt8[np.ndarray, "b 32"]:
        """Return the SHA-256 of the pixels of each of some images; zeros for one that has not been read."""
        return self._digests[start:stop]

    def learn(self, start: int, digests: UInt8[np.ndarray, "b 32"]) -> None:
        """Take the digests of images from ``start`` on, which another process has read, perhaps."""
        self._digests[start : start + len(digests)] = digests
        self._hashed[start : start + len(digests)] = True

    def fingerprint(self) -> str:
        """Return the SHA-256 of size and images, whatever file format holds them; reads them if need be."""
        if not self.hashed:
            for _ in self.blocks(256):
                pass
        head = f"{len(self)}x{self.height}x{self.width}x3".encode()
        return hashlib.sha256(head + self._digests.tobytes()).hexdigest()


def open_images(location: str | Path, size: int | None = None) -> ImageSet:
    """Open a ``.npz`` in ADM's layout, or whatever :func:`reals.data.sources.open_source` does.

    That is a folder or zip of images, a Parquet file or a folder of them, or ``hf:owner/name[@config][:split]``.

    Args:
        location: of the images.
        size: the side to which images are cropped as ADM does. The pixels of a ``.npz`` are never changed.

    Raises:
        UserError: nothing there, no images, a file that is not what its name says, or a ``.npz`` of another size.
    """
    if Path(location).suffix.lower() != ".npz" or str(location).startswith(HUB_PREFIX):
        return FileImages(str(location), size)
    images = NpzImages(Path(location).expanduser())
    if size not in (None, images.height) or size not in (None, images.width):
        raise UserError(
            f"{location}: has images of {images.width}x{images.height}, not {size}x{size}; "
            "--size crops image files and datasets, not batches"
        )
    return images


class FileImages(ImageSet):
    """Images in files or a dataset: cropped as ADM does, or all of one size already."""

    def __init__(self, location: str, size: int | None = None):
        """Open the source; without ``size``, the side of the cropped images, read the first image's size."""
        self.location = location
        self._source = open_source(location)
        self.crop = size
        if len(self._source) == 0:
            raise UserError(f"{location}: holds no images")
        super().__init__(len(self._source))
        self.width, self.height = self._decode(0).size if size is None else (size, size)

    @property
    def names(self) -> Sequence[str]:
        """Keys of the source."""
        return self._source.keys

    def labels(self) -> np.ndarray | None:
        """Return the class of each image: its folder, or what its row in a dataset says."""
        return self._source.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None for unlabelled images."""
        return None if self._source.labels is None else self._source.class_names

    def take(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Decode just these images."""
        return np.stack(list(load_ahead(self._load, indices.tolist(), ahead=_AHEAD)))

    def _read(self, batch: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
        starts = range(first * batch, len(self), every * batch)
        indices = (index for start in starts for index in range(start, min(start + batch, len(self))))
        images = load_ahead(self._load, indices, ahead=batch)
        for start in starts:
            yield np.stack(list(islice(images, min(batch, len(self) - start))))

    def _load(self, index: int) -> np.ndarray:
        image = self._decode(index)
        if self.crop is not None:
            return centre_crop(image, self.crop)
        if image.size != (self.width, self.height):
            raise UserError(
                f"{self.location}: {self._source.keys[index]} is {image.size[0]}x{image.size[1]}, "
                f"{self._source.keys[0]} is {self.width}x{self.height}; bring all images to one size first, "
                "or give --size to crop them as ADM does"
            )
        return np.asarray(image, dtype=np.uint8)

    def _decode(self, index: int) -> Image.Image:
        try:
            return self._source.load(index)
        except BrokenImage as problem:
            raise UserError(
                f"{self.location}: {self._source.keys[index]} cannot be read ({problem}); replace or remove it"
            ) from None


class NpzImages(ImageSet):
    """``arr_0`` of a ``.npz``, plain or compressed, streamed; nothing in it is unpickled.

    Images of a plain array are sought where not all are read, as when processes share them; a compressed one is read
    from its beginning, and one in Fortran order, whose images are interleaved, whole. The file's checksum is compared
    where one process reads everything: damage inside a plain array that several processes share shows in the
    fingerprint only.
    """

    def __init__(self, path: Path):
        """Read the array's shape, without its pixels.

        Raises:
            UserError: as :class:`reals.evaluation.npz_array.OpenArray` does.
        """
        self.location = str(path)
        self._path = path
        with OpenArray(path) as opened:
            self._start, shape = opened.start, opened.shape
        count, self.height, self.width = shape[:3]
        super().__init__(count)

    def labels(self) -> np.ndarray | None:
        """Return ``arr_1`` where it holds an integer for each image."""
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                labels = archive[LABELS] if LABELS in archive.files else None
        except DAMAGE as error:
            problem = f"'{LABELS}' cannot be read ({reason(error)}); copy or write it again"
            raise UserError(f"{self._path}: {problem}") from None
        if labels is None or labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            return None
        return labels.astype(np.int64)

    def take(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Seek just these images, or read from the beginning where that cannot be done."""
        if self._start is None:
            return super().take(indices)
        return np.concatenate(list(self._sought(self._start, [(int(index), 1) for index in indices])))

    def _read(self, batch: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
        if self._start is None or every == 1:
            return islice(self._stream(batch), first, None, every)
        starts = range(first * batch, len(self), every * batch)
        return self._sought(self._start, [(start, min(batch, len(self) - start)) for start in starts])

    def _sought(self, begin: int, runs: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Yield ``(first, count)`` images of a plain array whose pixels start at byte ``begin`` of the file."""
        shape = (self.height, self.width, 3)
        try:
            with open(self._path, "rb") as handle:
                for first, count in runs:
                    handle.seek(begin + first * math.prod(shape))
                    yield np.frombuffer(exactly(handle, count * math.prod(shape)), np.uint8).reshape(count, *shape)
        except (OSError, EOFError) as error:
            raise broken(self._path, error) from None

    def _stream(self, batch: int) -> Iterator[np.ndarray]:
        with OpenArray(self._path) as opened:
            shape, handle = opened.shape, opened.handle
            if opened.fortran:
                flat = np.frombuffer(exactly(handle, math.prod(shape)), np.uint8)
                images = flat.reshape(shape, order="F")
                for start in range(0, len(images), batch):
                    yield np.ascontiguousarray(images[start : start + batch])
                return
            for start in range(0, shape[0], batch):
                rows = min(batch, shape[0] - start)
                block = np.frombuffer(exactly(handle, rows * math.prod(shape[1:])), np.uint8)
                yield block.reshape(rows, *shape[1:])
