"""The record of a run: one JSON object a line, continued, never duplicated, when a run resumes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from reals.runtime import dist
from reals.runtime.io import write_text

LOG_NAME = "log.jsonl"


def read_log(directory: Path) -> list[dict[str, float]]:
    """Return the logged lines of a run, oldest first; empty if it has not logged yet."""
    path = directory / LOG_NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class TrainingLog:
    """Averages losses on the device between lines, so that logging costs one transfer a line.

    Values that are not finite are left out of the averages: they belong to steps that are not taken.
    """

    def __init__(self, directory: Path, step: int, *, write: bool):
        """Continue the log at ``step``: what a killed run had written beyond its last checkpoint is cut off."""
        self._path = directory / LOG_NAME
        self._write = write
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        if write:
            kept = [line for line in read_log(directory) if line["step"] <= step]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    @torch.no_grad()
    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of one micro-batch's losses, without waiting for the device."""
        if not losses:
            return
        values = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
        finite = torch.isfinite(values)
        for name, value, counts in zip(losses, values.where(finite, 0.0), finite.float(), strict=True):
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts[name] + counts if name in self._counts else counts

    def flush(self, step: int, **more: float) -> dict[str, float]:
        """Write and return the averages since the last line, over all processes; each must call this.

        Names that never had a finite value are absent.
        """
        if not self._sums:
            return {}
        table = torch.stack([torch.stack(list(part.values())) for part in (self._sums, self._counts)])
        if dist.world_size() > 1:
            torch.distributed.all_reduce(table)
        sums, counts = table.tolist()
        averages = {
            name: total / count for name, total, count in zip(self._sums, sums, counts, strict=True) if count > 0
        }
        self._sums, self._counts = {}, {}
        if self._write:
            with open(self._path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, **averages, **more}) + "\n")
        return averages
