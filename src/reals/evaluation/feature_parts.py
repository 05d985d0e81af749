"""Features of the images that have passed so far, on disk, for the next call if this one is stopped."""

import shutil
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float

from reals.runtime import interrupt
from reals.runtime.io import save_array, whole_array
from reals.runtime.progress import say

_SECONDS_BETWEEN = 30.0


class FeatureParts:
    """A directory of ``START.npy``, each with the rows from START on; two writers of the same rows do no harm."""

    def __init__(self, directory: Path, dimension: int):
        """Look at ``directory``, which need not exist; rows have ``dimension`` numbers."""
        self._directory = directory
        self._dimension = dimension
        self._written = 0
        self._last = time.monotonic()
        self._broken = False

    def rows(self) -> Float[np.ndarray, "n d"]:
        """Return what an earlier call has kept, from the first row on, up to the first that is missing or damaged."""
        found: list[np.ndarray] = []
        self._written = 0
        while True:
            part = whole_array(self._directory / f"{self._written}.npy")
            if (
                part is None
                or part.ndim != 2
                or part.shape[1] != self._dimension
                or part.dtype != np.float32
                or not len(part)
            ):
                break
            found.append(part)
            self._written += len(part)
        return np.concatenate([np.empty((0, self._dimension), np.float32), *found])

    def offer(self, rows: Float[np.ndarray, "n d"]) -> None:
        """Write what is new in ``rows``, all so far, if there was no writing for a while or a signal asks to stop."""
        due = time.monotonic() - self._last >= _SECONDS_BETWEEN or interrupt.requested() is not None
        if self._broken or not due or len(rows) <= self._written:
            return
        path = self._directory / f"{self._written}.npy"
        try:
            save_array(path, rows[self._written :])
        except OSError as error:
            self._broken = True
            say(f"warning: {path}: features so far are not kept ({error.strerror})")
            return
        self._written, self._last = len(rows), time.monotonic()

    def discard(self) -> None:
        """Delete everything: the whole is kept elsewhere."""
        shutil.rmtree(self._directory, ignore_errors=True)
