"""Images in a zip file, read without unpacking it."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from reals.data.decode import BrokenImage, decode
from reals.data.layout import arrange, fingerprint_of, is_image
from reals.runtime.errors import UserError


class ZipSource:
    """Images of a zip file, in class folders or flat; see :func:`reals.data.layout.arrange`.

    Threads may share it, and so may worker processes: each process opens the file anew, because a file position
    inherited from the parent would be shared with it.
    """

    def __init__(self, path: Path):
        """Read the zip's directory.

        Raises:
            UserError: the zip is damaged, cut short or encrypted, or has no usable arrangement of images.
        """
        self.location = str(path)
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        members = {
            member.filename.replace("\\", "/"): member
            for member in self._archive().infolist()
            if not member.is_dir() and is_image(member.filename.replace("\\", "/"))
        }
        locked = next((member.filename for member in members.values() if member.flag_bits & 0x1), None)
        if locked is not None:
            raise UserError(f"{path}: {locked} is encrypted; make a zip without a password")
        layout = arrange(members, self.location)
        self.keys, self.labels, self.class_names = layout.keys, layout.labels, layout.class_names
        self._members = [members[layout.prefix + key] for key in layout.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self._path))
            except zipfile.BadZipFile as error:
                raise UserError(
                    f"{self._path}: the zip is damaged or cut short ({error}); download or copy it again"
                ) from None
            except OSError as error:
                raise UserError(f"{self._path}: cannot be read ({error.strerror})") from None
        return self._opened[1]

    def load(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            BrokenImage: its bytes are damaged or cannot be decoded.
            UserError: it is compressed by a method that Python cannot read.
        """
        member = self._members[index]
        try:
            data = self._archive().read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BrokenImage(" ".join(str(error).split()) or "its data ends early") from None
        except NotImplementedError as error:
            raise UserError(f"{self._path}: {member.filename}: {error}; make the zip with deflate") from None
        return decode(data)

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, CRCs and sizes from the zip's directory; contents are not read."""
        members = zip(self.keys, self._members, strict=True)
        return fingerprint_of(f"{key}\0{member.CRC:08x}\0{member.file_size}" for key, member in members)
