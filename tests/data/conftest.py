"""Tiny photos, on disk and in memory."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.data.decode import BrokenImage, decode
from reals.data.layout import fingerprint_of


def encode(value: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """Return an image file whose pixels depend on ``value``; the left upper corner is [value, 0, 0]."""
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[0, 0] = (value, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Make an image file's bytes: ``png(value, size=(8, 8), kind="PNG")``."""
    return encode


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write files given as {relative name: bytes} below a new folder of ``tmp_path``."""

    def write(files: Mapping[str, bytes], name: str = "photos") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for relative, data in files.items():
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (root / relative).write_bytes(data)
        return root

    return write


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[..., Path]:
    """Write files given as {relative name: bytes} to a zip in ``tmp_path``."""

    def write(files: Mapping[str, bytes], name: str = "photos.zip") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for relative, data in files.items():
                archive.writestr(relative, data)
        return tmp_path / name

    return write


class MemorySource:
    """Image files in memory, counting what is decoded."""

    def __init__(self, files: Mapping[str, bytes], classes: int = 0):
        self.location = "memory"
        self.keys = list(files)
        self.files = dict(files)
        self.class_names = tuple(f"class{number}" for number in range(classes))
        self.labels = np.arange(len(files), dtype=np.int64) % classes if classes else None
        self.loaded: list[int] = []
        self.stop_before: int | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, index: int) -> Image.Image:
        if index == self.stop_before:
            raise KeyboardInterrupt
        self.loaded.append(index)
        data = self.files[self.keys[index]]
        if not data:
            raise BrokenImage("empty")
        return decode(data)

    def fingerprint(self) -> str:
        return fingerprint_of(f"{key}:{len(data)}" for key, data in self.files.items())


@pytest.fixture
def memory_source() -> type[MemorySource]:
    """An ``ImageSource`` made of {name: bytes}."""
    return MemorySource


@pytest.fixture
def many(png: Callable[..., bytes]) -> dict[str, bytes]:
    """Two hundred photos of 8 x 8 pixels; photo i has the value i in its first byte."""
    return {f"{number:03d}.png": png(number) for number in range(200)}
