"""Sets of images to compare, read in blocks: image files, Hugging Face datasets and ADM's ``.npz`` batches."""

import hashlib
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reals.data.ahead import load_ahead
from reals.data.crop import centre_crop
from reals.data.decode import BrokenImage
from reals.data.huggingface import HUB_PREFIX
from reals.data.sources import open_source
from reals.runtime.errors import UserError

ARRAY = "arr_0"
"""The one key of ADM's layout that is read: uint8 images ``[n, height, width, 3]``."""

DIGEST_BYTES = 32
"""Of an image's SHA-256."""

LABELS = "arr_1"
"""Where batches of samples hold their classes: integers ``[n]``."""


@runtime_checkable
class ByteStream(Protocol):
    """A member of an archive, open for reading."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


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

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that labels count through, or None where the set has but numbers."""
        return None

    @abstractmethod
    def labels(self) -> np.ndarray | None:
        """Return the class of each image, int64 ``[n]``, or None where the set does not say."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return some images, uint8 ``[k, height, width, 3]``, in the order asked for; reads up to the last of them."""
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
    images = NpzImages(Path(location))
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

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the source's classes, in the order of their labels."""
        return self._source.class_names or None

    def labels(self) -> np.ndarray | None:
        """Return the class of each image, of class folders or of a dataset's column."""
        return self._source.labels

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

    An array in Fortran order has its images interleaved, so it is read whole.
    """

    def __init__(self, path: Path):
        """Read the array's shape, without its pixels."""
        self.location = str(path)
        self._path = path
        with _OpenArray(path) as (_, shape, _):
            pass
        count, self.height, self.width = shape[:3]
        super().__init__(count)

    def labels(self) -> np.ndarray | None:
        """Return ``arr_1`` where it holds an integer for each image."""
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                labels = archive[LABELS] if LABELS in archive.files else None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise UserError(f"{self._path}: '{LABELS}' cannot be read ({error}); copy or write it again") from None
        if labels is None or labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            return None
        return labels.astype(np.int64)

    def _read(self, batch: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
        # A compressed array can only be read from its beginning.
        return islice(self._stream(batch), first, None, every)

    def _stream(self, batch: int) -> Iterator[np.ndarray]:
        with _OpenArray(self._path) as (handle, shape, fortran):
            if fortran:
                flat = np.frombuffer(_exactly(handle, int(np.prod(shape))), np.uint8)
                images = flat.reshape(shape, order="F")
                for start in range(0, len(images), batch):
                    yield np.ascontiguousarray(images[start : start + batch])
                return
            size = int(np.prod(shape[1:]))
            for start in range(0, shape[0], batch):
                rows = min(batch, shape[0] - start)
                block = np.frombuffer(_exactly(handle, rows * size), np.uint8)
                yield block.reshape(rows, *shape[1:])


def _exactly(handle: ByteStream, count: int) -> bytearray:
    """Return ``count`` bytes in memory of their own, because torch refuses read-only arrays."""
    data = handle.read(count)
    if len(data) != count:
        raise EOFError
    return bytearray(data)


class _OpenArray:
    """Context of an open ``arr_0``: ``(handle at the first byte, shape, Fortran order)``; translates broken files."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> tuple[ByteStream, tuple[int, ...], bool]:
        try:
            return self._enter()
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise self._broken(error) from None

    def _enter(self) -> tuple[ByteStream, tuple[int, ...], bool]:
        if not self._path.is_file():
            raise UserError(f"{self._path}: no such file")
        self._archive = zipfile.ZipFile(self._path)
        names = self._archive.namelist()
        if f"{ARRAY}.npy" not in names:
            self._archive.close()
            found = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
            raise UserError(f"{self._path}: has no images under '{ARRAY}' (found: {found}); give a batch of images")
        self._handle = self._archive.open(f"{ARRAY}.npy")
        shape, fortran, dtype = _header(self._handle)
        problem = _layout_problem(shape, dtype)
        if problem is not None:
            self.__exit__(None, None, None)
            raise UserError(f"{self._path}: '{ARRAY}' {problem}; images are uint8 [n, height, width, 3]")
        return self._handle, shape, fortran

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._handle.close()
        self._archive.close()
        if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError)):
            raise self._broken(error) from None

    def _broken(self, error: BaseException) -> UserError:
        reason = str(error) or "it ends too early"
        return UserError(f"{self._path}: not a whole .npz file ({reason}); copy or write it again")


def _header(handle: ByteStream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(handle)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"unknown .npy version {version}")
    return read[version](handle)


def _layout_problem(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    if dtype.hasobject:
        return "holds Python objects, which are not read because reading them can run code"
    if dtype != np.uint8:
        return f"is of type {dtype}"
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        return f"has shape {list(shape)}"
    return None
