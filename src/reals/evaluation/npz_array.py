"""The images of a ``.npz`` in ADM's layout, open for reading: checked before memory is taken, errors translated."""

import lzma
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from reals.runtime.errors import UserError

ARRAY = "arr_0"
"""The one key of ADM's layout that is read: uint8 images ``[n, height, width, 3]``."""

DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, RuntimeError)
"""What reading a ``.npz`` raises where it is damaged, encrypted or compressed by an unknown method.

``zipfile`` has ``RuntimeError`` for encrypted members, and its subclass ``NotImplementedError`` for methods.
"""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1


@runtime_checkable
class ByteStream(Protocol):
    """A member of an archive, or a file, open for reading."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


def reason(error: BaseException) -> str:
    """Return in one line what is wrong with a file."""
    return next(iter(str(error).splitlines()), "") or "it ends too early"


def broken(path: Path, error: BaseException) -> UserError:
    """Return what to tell the user of a damaged file."""
    return UserError(f"{path}: not a whole .npz file ({reason(error)}); copy or write it again")


def exactly(handle: ByteStream, count: int) -> bytearray:
    """Return ``count`` bytes in memory of their own, because torch refuses read-only arrays.

    Raises:
        EOFError: there are fewer.
    """
    data = handle.read(count)
    if len(data) != count:
        raise EOFError
    return bytearray(data)


class OpenArray:
    """Context of an open ``arr_0``, at its first byte.

    Read to its end the member's checksum is compared. It translates :data:`DAMAGE`, there and in the ``with`` block.

    Raises:
        UserError: there is no such file, no such array, it holds no images, or fewer than it says.
    """

    handle: ByteStream
    shape: tuple[int, ...]
    fortran: bool
    """Whether the array is in Fortran order, images interleaved."""
    start: int | None
    """Where in the file the first byte lies, if the array is stored as it is; None for a compressed one."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "OpenArray":
        """Open the file and read the array's shape."""
        if not self._path.is_file():
            raise UserError(f"{self._path}: no such file")
        try:
            self._archive = zipfile.ZipFile(self._path)
            try:
                self._enter()
            except BaseException:
                self._archive.close()
                raise
        except DAMAGE as error:
            raise broken(self._path, error) from None
        return self

    def _enter(self) -> None:
        names = self._archive.namelist()
        if f"{ARRAY}.npy" not in names:
            found = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
            raise UserError(f"{self._path}: has no images under '{ARRAY}' (found: {found}); give a batch of images")
        member = self._archive.getinfo(f"{ARRAY}.npy")
        self.handle = stream = self._archive.open(member)
        self.shape, self.fortran, dtype = _header(stream)
        problem = _layout_problem(self.shape, dtype)
        if problem is not None:
            raise UserError(f"{self._path}: '{ARRAY}' {problem}; images are uint8 [n, height, width, 3]")
        # Before anybody makes room for as many images as a damaged header claims.
        offset, size = stream.tell(), math.prod(self.shape)
        on_disk = os.path.getsize(self._path)
        if offset + size > member.file_size or member.compress_size > on_disk:
            raise EOFError(f"it ends too early: {size} bytes of images in a file of {on_disk}")
        self.start = None if self.fortran else _start(self._path, member, offset)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close the file."""
        self._archive.close()
        if isinstance(error, DAMAGE):
            raise broken(self._path, error) from None


def _start(path: Path, member: zipfile.ZipInfo, offset: int) -> int | None:
    """Return where byte ``offset`` of a stored member lies in the file."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        return None
    with open(path, "rb") as handle:
        handle.seek(member.header_offset)
        # The directory's copy of name and extra field may have other lengths than the member's own.
        _, name, extra = _LOCAL_HEADER.unpack(exactly(handle, _LOCAL_HEADER.size))
    return member.header_offset + _LOCAL_HEADER.size + name + extra + offset


def _header(handle: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
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
