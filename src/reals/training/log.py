"""The record of a run: one JSON object a line, continued, never duplicated, when a run resumes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from reals.runtime.errors import UserError
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
    """Averages losses on the device between lines, so that logging costs one transfer a line."""

    def __init__(self, directory: Path, step: int, *, write: bool):
        """Continue the log at ``step``: what a killed run had written beyond its last checkpoint is cut off."""
        self._path = directory / LOG_NAME
        self._write = write
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._count = 0
        if write:
            kept = [line for line in read_log(directory) if line["step"] <= step]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of one micro-batch's losses, without waiting for the device."""
        values = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
        self._names = list(losses)
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1

    def flush(self, step: int, **more: float) -> dict[str, float]:
        """Write the averages since the last line.

        Raises:
            UserError: the loss is not finite.
        """
        if self._sum is None:
            return {}
        averages = dict(zip(self._names, (self._sum / self._count).tolist(), strict=True))
        self._sum, self._count = None, 0
        if not math.isfinite(averages["loss"]):
            parts = ", ".join(f"{name} {value:.3g}" for name, value in averages.items())
            raise UserError(f"the loss is not finite at step {step} ({parts}); lower the learning rate, or use float32")
        if self._write:
            finite = {name: value for name, value in averages.items() if math.isfinite(value)}
            with open(self._path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, **finite, **more}) + "\n")
        return averages
