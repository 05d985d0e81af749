"""Rows of named arrays on disk, in shards: bounded memory, resumable, written by any number of processes.

A shard is one ``.npy`` file per array, written atomically and read memory-mapped; ``manifest.json`` appears last, so
its presence means the directory is complete.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reals.runtime import dist, interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, remove_leftovers, save_array, write_json

MANIFEST = "manifest.json"


def _shard_path(directory: Path, name: str, number: int) -> Path:
    return directory / f"{name}-{number:05d}.npy"


def write_shards(
    directory: Path,
    rows: int,
    produce: Callable[[int, int], Mapping[str, np.ndarray]],
    *,
    names: tuple[str, ...],
    rows_per_shard: int,
    metadata: Mapping[str, Any],
    on_rows: Callable[[int], None] = lambda count: None,
) -> None:
    """Fill ``directory`` with the arrays ``names``, asking ``produce(start, stop)`` for each missing shard.

    Whole shards of an interrupted earlier call are kept; ``on_rows`` is told how many rows each shard, kept or new,
    has. Under ``torchrun`` the processes take turns by shard and the manifest follows when all are done.

    Raises:
        UserError: the directory holds shards made with other ``metadata`` or sizes.
        Interrupted: a signal asked the process to stop; finished shards stay.
    """
    plan = {"rows": rows, "rows_per_shard": rows_per_shard, "names": list(names), "metadata": dict(metadata)}
    plan_path = directory / "plan.json"
    directory.mkdir(parents=True, exist_ok=True)
    if plan_path.exists() and read_json(plan_path) != plan:
        raise UserError(f"{directory}: holds arrays made with other settings; give another output directory")
    if dist.is_main():
        remove_leftovers(directory)
        write_json(plan_path, plan)
    dist.barrier()
    for number, start in enumerate(range(0, rows, rows_per_shard)):
        stop = min(start + rows_per_shard, rows)
        if number % dist.world_size() != dist.rank():
            continue
        if not all(_shard_path(directory, name, number).exists() for name in names):
            interrupt.stop_if_requested(f"after {start} of {rows} rows of {directory}")
            for name, array in produce(start, stop).items():
                if len(array) != stop - start:
                    raise ValueError(f"{name}: produced {len(array)} rows, expected {stop - start}")
                save_array(_shard_path(directory, name, number), array)
        on_rows(stop - start)
    dist.barrier()
    if dist.is_main():
        write_json(directory / MANIFEST, plan)
    dist.barrier()


class ShardedArrays:
    """Read-only access to a directory written by :func:`write_shards`."""

    def __init__(self, directory: Path):
        """Open ``directory``.

        Raises:
            UserError: the directory is absent or incomplete.
        """
        if not (directory / MANIFEST).exists():
            raise UserError(f"{directory}: not a complete cache (no {MANIFEST}); run the command that makes it again")
        manifest = read_json(directory / MANIFEST)
        self.directory = directory
        self.rows: int = manifest["rows"]
        self.metadata: dict[str, Any] = manifest["metadata"]
        self.names: tuple[str, ...] = tuple(manifest["names"])
        self._rows_per_shard: int = manifest["rows_per_shard"]
        self._open: dict[tuple[str, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.rows

    @staticmethod
    def complete(directory: Path) -> bool:
        """Return whether ``directory`` has been written to its end."""
        return (directory / MANIFEST).exists()

    def _shard(self, name: str, number: int) -> np.ndarray:
        key = (name, number)
        if key not in self._open:
            self._open[key] = np.load(_shard_path(self.directory, name, number), mmap_mode="r", allow_pickle=False)
        return self._open[key]

    def gather(self, name: str, indices: np.ndarray, view: int | np.ndarray | None = None) -> np.ndarray:
        """Return rows ``indices`` of array ``name``, in order; ``view`` picks along a second axis, perhaps per row."""
        indices = np.asarray(indices, dtype=np.int64)
        first = self._shard(name, 0)
        shape = first.shape[1:] if view is None else first.shape[2:]
        result = np.empty((len(indices), *shape), dtype=first.dtype)
        numbers = indices // self._rows_per_shard
        for number in np.unique(numbers):
            chosen = np.nonzero(numbers == number)[0]
            local = indices[chosen] - number * self._rows_per_shard
            shard = self._shard(name, int(number))
            if view is None:
                result[chosen] = shard[local]
            else:
                result[chosen] = shard[local, view[chosen] if isinstance(view, np.ndarray) else view]
        return result

    def all(self, name: str) -> np.ndarray:
        """Return the whole array ``name`` in memory; for small arrays such as labels."""
        return self.gather(name, np.arange(self.rows))
