"""Which image is seen when, as a function of progress alone: any run can be continued, or cut among processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reals.data.store import ImageStore
from reals.runtime.seed import derive_seed


class TrainingSampler:
    """Batches of (row, mirrored) from an endless stream, for the ``batch_sampler`` of a ``DataLoader``.

    Image ``i`` of optimiser step ``s`` is at position ``p = s * batch_size + i`` of the stream; the stream is epoch
    after epoch (``p // len(rows)``), each a permutation of ``rows`` that depends on the seed and the epoch only. A
    run that starts at step ``s`` sees from there what a run from 0 sees, whatever the number of processes.

    The global batch is cut into equal contiguous pieces, by rank first, then by micro-batch: rank ``r``'s micro-batch
    ``m`` holds images ``(r * micro_batches + m) * k`` up to ``k`` more, ``k`` its size.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        start_step: int,
        steps: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        mirror: bool = True,
    ):
        """Plan steps ``start_step`` to ``steps - 1`` of a run.

        Args:
            rows: the rows to train on, [n].
            batch_size: images per optimiser step, over all processes and micro-batches.
            seed: of the order and of the mirroring.
            start_step: optimiser steps already taken.
            steps: optimiser steps of the whole run, those already taken included.
            rank: of this process.
            world_size: number of processes.
            micro_batches: batches whose gradients this process adds up in one optimiser step.
            mirror: whether each visit of an image is mirrored left to right with probability one half.

        Raises:
            ValueError: there are no rows, or the batch cannot be cut into equal pieces.
        """
        pieces = world_size * micro_batches
        if len(rows) == 0:
            raise ValueError("there are no rows to train on")
        if batch_size < 1 or batch_size % pieces:
            raise ValueError(
                f"batch size {batch_size} is not a multiple of {world_size} processes x {micro_batches} micro-batches"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self._rows = np.asarray(rows, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._steps = range(start_step, steps)
        self._size = batch_size // pieces
        self._first = rank * micro_batches * self._size
        self._micro_batches = micro_batches
        self._mirror = mirror
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Return the number of micro-batches that this process draws."""
        return len(self._steps) * self._micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        """Yield one list per micro-batch, from ``start_step`` on."""
        for step in self._steps:
            start = step * self._batch_size + self._first
            for micro_batch in range(self._micro_batches):
                yield self._at(start + micro_batch * self._size)

    def _at(self, position: int) -> list[tuple[int, bool]]:
        epochs, offsets = np.divmod(np.arange(position, position + self._size), len(self._rows))
        rows = np.empty(self._size, dtype=np.int64)
        mirrored = np.empty(self._size, dtype=bool)
        for epoch in np.unique(epochs).tolist():
            order, flips = self._epoch(epoch)
            chosen = epochs == epoch
            rows[chosen], mirrored[chosen] = order[offsets[chosen]], flips[offsets[chosen]]
        self._epochs = {epoch: drawn for epoch, drawn in self._epochs.items() if epoch == epochs[-1]}
        return list(zip(rows.tolist(), mirrored.tolist(), strict=True))

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            # NumPy keeps the raw stream of a bit generator for ever, but not that of shuffle() or permutation().
            count = len(self._rows)
            order = np.argsort(
                np.random.PCG64(derive_seed(self._seed, "order", epoch)).random_raw(count), kind="stable"
            )
            flips = np.zeros(count, dtype=bool)
            if self._mirror:
                draws = np.random.PCG64(derive_seed(self._seed, "mirror", epoch)).random_raw(count)
                flips = draws >= np.uint64(1 << 63)
            self._epochs[epoch] = (self._rows[order], flips)
        return self._epochs[epoch]


class StoreImages(Dataset[dict[str, Tensor]]):
    """A prepared store as a data set of whole batches, asked for by :class:`TrainingSampler`'s lists."""

    def __init__(self, store: ImageStore):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, item: tuple[int, bool]) -> dict[str, Tensor]:
        """Return one image as a batch of one."""
        return self.__getitems__([item])

    def __getitems__(self, items: list[tuple[int, bool]]) -> dict[str, Tensor]:
        """Return "image" uint8 [b, h, w, 3] (mirrored where asked), "label", "row" int64 [b], "mirrored" bool [b]."""
        rows = np.array([row for row, _ in items], dtype=np.int64)
        mirrored = np.array([flip for _, flip in items], dtype=bool)
        images = self.store.load(rows)
        images[mirrored] = images[mirrored, :, ::-1]
        return {
            "image": torch.from_numpy(images),
            "label": torch.from_numpy(self.store.labels[rows]),
            "row": torch.from_numpy(rows),
            "mirrored": torch.from_numpy(mirrored),
        }

    @staticmethod
    def collate(batch: Any) -> Any:
        """Return the batch as it is: it was collated when it was gathered. Give it to ``DataLoader(collate_fn=)``."""
        return batch
