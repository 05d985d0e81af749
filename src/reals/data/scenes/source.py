"""Rendered scenes as an image source, with the same interface as a folder or an archive of pictures."""

import hashlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reals.data.scenes.renderer import LARGEST, SCENE_CLASSES, SMALLEST, render
from reals.runtime.errors import UserError

# Raise when pictures change for the same (seed, index, size), so that caches made from older pictures are not reused.
_VERSION = 1
_PLAIN_VERSION = 2
_LARGEST_COUNT = 1_000_000


class SceneSource:
    """The first ``count`` scenes of a seed, rendered at ``size`` when asked for."""

    def __init__(self, count: int, size: int, seed: int = 0, *, plain: bool = False):
        """Describe the scenes, ``plain`` ones of less variety; nothing is rendered yet.

        Raises:
            UserError: the count is outside [1, 1,000,000] or the size outside what :func:`render` takes.
        """
        kind = "plain-scenes" if plain else "scenes"
        if not 1 <= count <= _LARGEST_COUNT:
            raise UserError(f"{kind}:{count}: give a number of scenes from 1 to {_LARGEST_COUNT}")
        if not SMALLEST <= size <= LARGEST:
            raise UserError(f"{kind}:{count}: size {size} is outside {SMALLEST} to {LARGEST} pixels")
        self.location = f"{kind}:{count}" if seed == 0 else f"{kind}:{count}:{seed}"
        self.size = size
        self.seed = seed
        self.plain = plain
        self.class_names: tuple[str, ...] = SCENE_CLASSES
        self.labels = np.arange(count, dtype=np.int64) % len(SCENE_CLASSES)
        self.keys = [f"{SCENE_CLASSES[label]}/{index:06d}" for index, label in enumerate(self.labels)]

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, index: int) -> Image.Image:
        """Render scene ``index`` as an RGB image."""
        return Image.fromarray(self.load_block(index, index + 1)[0])

    def load_block(self, start: int, stop: int) -> UInt8[np.ndarray, "n size size 3"]:
        """Render scenes ``start`` up to, not including, ``stop``; faster than one by one.

        Raises:
            IndexError: the block reaches outside the source.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.location}: no scenes {start} to {stop}")
        return render(np.arange(start, stop), self.size, self.seed, plain=self.plain).images

    def fingerprint(self) -> str:
        """Return the SHA-256 of what determines the pictures: renderer version, count, size and seed."""
        kind = f"plain scenes {_PLAIN_VERSION}" if self.plain else f"scenes {_VERSION}"
        words = f"{kind} {len(self)} {self.size} {self.seed}"
        return hashlib.sha256(words.encode()).hexdigest()
