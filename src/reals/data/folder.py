"""Images in a directory."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from reals.data.decode import decode
from reals.data.layout import arrange, fingerprint_of, is_image
from reals.runtime.errors import UserError


class FolderSource:
    """Images of a directory tree, in class folders or flat; see :func:`reals.data.layout.arrange`."""

    def __init__(self, directory: Path):
        """List ``directory``, following links.

        Raises:
            UserError: it has no images, or a mixture of flat images and class folders.
        """
        self.location = str(directory)
        layout = arrange(_image_names(directory), self.location)
        self.keys, self.labels, self.class_names = layout.keys, layout.labels, layout.class_names
        self._root = directory / layout.prefix

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            BrokenImage: it cannot be decoded.
            UserError: it cannot be read from the disk.
        """
        path = self._root / self.keys[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it and run again") from None
        return decode(data)

    def fingerprint(self) -> str:
        """Return the SHA-256 over names and file sizes; contents are not read."""
        return fingerprint_of(f"{key}\0{self._size(key)}" for key in self.keys)

    def _size(self, key: str) -> int:
        try:
            return (self._root / key).stat().st_size
        except OSError as error:
            raise UserError(
                f"{self._root / key}: cannot be read ({error.strerror}); mend or remove it and run again"
            ) from None


def _image_names(root: Path) -> Iterator[str]:
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        # A link to a parent would never end.
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        relative = Path(folder).relative_to(root).as_posix()
        start = "" if relative == "." else relative + "/"
        yield from (start + name for name in files if is_image(start + name))
