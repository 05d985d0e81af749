"""Every image of a source decoded and cropped into shards, by all cores, with damaged ones counted."""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reals.data.ahead import cores
from reals.data.crop import centre_crop
from reals.data.decode import BrokenImage
from reals.data.sources import BlockSource, ImageSource
from reals.runtime import dist, interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from reals.runtime.progress import Progress, progress
from reals.runtime.shards import write_shards

_SHARD_BYTES = 128 * 2**20
_MAX_SHARD_ROWS = 8192
_BROKEN_LIMIT = 0.01
# Images that a source renders in one go.
_BLOCK = 250


class UnfitImages(UserError):
    """The images must change, or the size: shards made so far are of no use."""


class _Small(NamedTuple):
    """The extent of an image with fewer pixels than are needed."""

    width: int
    height: int


class Decoding:
    """Fills shards with the arrays "image" (uint8 [size, size, 3]) and "valid" (bool), one row per source image.

    An image that cannot be decoded is a row of zeros that is not valid, so that the row of each image is known before
    any is decoded: that is what lets shards be made in any order, by any process.
    """

    def __init__(self, source: ImageSource, size: int, directory: Path):
        self._source = source
        self._size = size
        self._directory = directory
        self.skipped_path = directory.with_name("skipped.json")
        self._rows_per_shard = max(1, min(_MAX_SHARD_ROWS, _SHARD_BYTES // (3 * size * size)))
        self._reasons: dict[int, str] = {}
        self._kept = 0
        self._just_made = False
        self._bar: Progress | None = None

    def run(self, fingerprint: str) -> None:
        """Make every missing shard, showing images per second; ``fingerprint`` is the source's.

        Raises:
            UnfitImages: an image is too small, or too many are broken.
            UserError: a file cannot be read from the disk, or the directory holds other images.
            Interrupted: a signal asked the process to stop; finished shards stay.
        """
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(cores()))
            write_shards(
                self._directory,
                len(self._source),
                partial(self._produce, pool, stack),
                names=("image", "valid"),
                rows_per_shard=self._rows_per_shard,
                metadata={"fingerprint": fingerprint, "size": self._size},
                on_rows=self._count,
            )

    def discard(self) -> None:
        """Delete all shards: they would stand in the way of mended images. With others at work, leave them alone."""
        if dist.world_size() == 1:
            shutil.rmtree(self._directory, ignore_errors=True)

    def explain(self, rows: np.ndarray) -> dict[int, str]:
        """Return why each of ``rows`` is broken, decoding again those found by an earlier run or another process."""
        return {row: self._reasons.get(row) or self._reason(row) for row in rows.tolist()}

    def list_broken(self, reasons: Mapping[int, str]) -> None:
        """Write the names of broken images and why they are, by row, to ``skipped_path``.

        Raises:
            UnfitImages: they are more than 1 % of the images.
        """
        total = len(self._source)
        files = [{"key": self._source.keys[row], "reason": reason} for row, reason in sorted(reasons.items())]
        write_json(self.skipped_path, {"count": len(files), "files": files})
        if len(files) > _BROKEN_LIMIT * total:
            raise UnfitImages(
                f"{self._source.location}: at least {len(files)} of {total} images cannot be read, more than 1 %; the "
                f"first is {files[0]['key']} ({files[0]['reason']}); mend or remove those listed in {self.skipped_path}"
            )

    def _produce(self, pool: ThreadPoolExecutor, stack: ExitStack, start: int, stop: int) -> dict[str, np.ndarray]:
        if self._bar is None:
            self._bar = stack.enter_context(progress("decoding", self._share(), "images", done=self._kept))
        images = np.zeros((stop - start, self._size, self._size, 3), dtype=np.uint8)
        valid = np.ones(stop - start, dtype=bool)
        if isinstance(self._source, BlockSource) and self._source.size == self._size:
            for first, block in pool.map(self._load_block, range(start, stop, _BLOCK), repeat(stop)):
                images[first - start : first - start + len(block)] = block
                self._bar.advance(len(block))
            self._just_made = True
            return {"image": images, "valid": valid}
        small: dict[int, _Small] = {}
        for row, outcome in enumerate(pool.map(self._decode, range(start, stop), images), start):
            if isinstance(outcome, _Small):
                small[row] = outcome
            elif outcome is not None:
                valid[row - start] = False
                self._reasons[row] = outcome
            self._bar.advance()
        self._refuse_small(small, stop - start)
        if len(self._reasons) > _BROKEN_LIMIT * len(self._source):
            # No need to decode the rest to know that there are too many.
            self.list_broken(self._reasons)
        self._just_made = True
        return {"image": images, "valid": valid}

    def _load_block(self, start: int, stop: int) -> tuple[int, np.ndarray]:
        interrupt.stop_if_requested(f"before image {start} of {len(self._source)}")
        assert isinstance(self._source, BlockSource)
        return start, self._source.load_block(start, min(start + _BLOCK, stop))

    def _decode(self, row: int, destination: np.ndarray) -> str | _Small | None:
        """Write the crop of image ``row``; return why it is broken, or its extent if it is too small."""
        try:
            image = self._source.load(row)
        except BrokenImage as error:
            return str(error)
        if min(image.size) < self._size:
            return _Small(*image.size)
        destination[:] = centre_crop(image, self._size)
        return None

    def _refuse_small(self, small: Mapping[int, _Small], count: int) -> None:
        if not small:
            return
        row = min(small)
        others = f", like {len(small) - 1} more of {count} looked at" if len(small) > 1 else ""
        raise UnfitImages(
            f"{self._source.location}: {self._source.keys[row]} has {small[row].width} x {small[row].height} pixels, "
            f"fewer than the image size {self._size}{others}; give a smaller image size or remove small images"
        )

    def _count(self, rows: int) -> None:
        """Count a shard that was kept; images of one just made have been counted one by one."""
        if self._just_made:
            self._just_made = False
        elif self._bar is None:
            self._kept += rows
        else:
            self._bar.advance(rows)

    def _share(self) -> int:
        """Return how many images this process is in charge of."""
        starts = range(dist.rank() * self._rows_per_shard, len(self._source), dist.world_size() * self._rows_per_shard)
        return sum(min(self._rows_per_shard, len(self._source) - start) for start in starts)

    def _reason(self, row: int) -> str:
        try:
            self._source.load(row)
        except BrokenImage as error:
            return str(error)
        return "could not be read when it was prepared, but can be now"
