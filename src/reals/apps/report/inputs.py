"""Reads a run's directory into typed records, tolerant of what a run has not written yet."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reals.runtime.errors import UserError
from reals.runtime.io import read_json

FORMAT = 1
BASELINE, ALIGNED = "baseline", "aligned"

State = Literal["better", "worse", "unclear", "moved", "unknown"]
"""What an interval allows to say: ``moved`` where neither direction is better, ``unknown`` without an interval."""


@dataclass(frozen=True)
class Change:
    """One metric of the comparison."""

    name: str
    baseline: float | None
    aligned: float | None
    difference: float | None
    relative: float | None
    interval: tuple[float, float] | None
    interval_of: Literal["relative_change", "difference"]
    better: Literal["higher", "lower"] | None

    @property
    def value(self) -> float | None:
        """The change that :attr:`interval` belongs to; without an interval, the relative change where there is one."""
        if self.interval_of == "difference" or self.relative is None:
            return self.difference
        return self.relative

    @property
    def is_relative(self) -> bool:
        """Whether :attr:`value` is a relative change."""
        return self.interval_of == "relative_change" and self.relative is not None

    @property
    def state(self) -> State:
        """What may be said: an interval that touches zero says nothing."""
        if self.interval is None or self.value is None:
            return "unknown"
        low, high = self.interval
        if low <= 0 <= high:
            return "unclear"
        if self.better is None:
            return "moved"
        return "better" if (low > 0) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Log:
    """A training log: quantity -> (steps, values), and how many lines could not be read."""

    series: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True)
class Run:
    """A run's measurements; ``arms`` is ordered baseline, aligned, then others."""

    directory: Path
    complete: bool
    arms: dict[str, dict[str, float]]
    changes: dict[str, Change]
    speed: dict[str, dict[str, dict[str, float | None]]]
    protocol: dict[str, Any]

    @property
    def compared(self) -> bool:
        """Whether two arms were measured against each other."""
        return bool(self.changes)

    def section(self, *path: str) -> dict[str, Any]:
        """Return a nested object of the protocol, empty if it is absent."""
        found: Any = self.protocol
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def seen_by_alignment(self, network: str) -> bool | None:
        """Return whether alignment was trained on a feature network; None if the protocol does not say."""
        seen = self.section("feature_networks", network).get("seen_by_alignment")
        return seen if isinstance(seen, bool) else None

    def value(self, arm: str, metric: str) -> float | None:
        """Return what was measured, or None."""
        return self.arms.get(arm, {}).get(metric)


def read_run(directory: Path) -> Run:
    """Read ``DIR/metrics.json``.

    Raises:
        UserError: the file is missing, is not JSON, or is not a run's measurements.
    """
    path = directory / "metrics.json"
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give the directory of a run")
    if not path.exists():
        raise UserError(
            f"{path}: no such file, so there is nothing to report; give a run's directory, or finish the run"
        )
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("arms"), dict):
        raise UserError(f"{path}: not the measurements of a run (no object 'arms')")
    if found.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {found.get('format')!r}, expected {FORMAT}; use the version of reals that wrote it"
        )
    measured = {str(arm): _floats(values) for arm, values in found["arms"].items()}
    order = sorted(measured, key=lambda arm: (arm != BASELINE, arm != ALIGNED))
    comparison, speed = _object(found.get("comparison")), _object(found.get("speed"))
    return Run(
        directory=directory,
        complete=found.get("complete") is True,
        arms={arm: measured[arm] for arm in order},
        changes={str(name): _change(str(name), entry) for name, entry in comparison.items() if isinstance(entry, dict)},
        speed={str(arm): {str(k): _stage(v) for k, v in _object(stages).items()} for arm, stages in speed.items()},
        protocol=_object(found.get("protocol")),
    )


def read_log(path: Path) -> Log | None:
    """Read one JSON object a line, or return None if there is no file; a line still being written is left out."""
    if not path.exists():
        return None
    series: dict[str, tuple[list[float], list[float]]] = {}
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            unreadable += line.endswith("\n")
            continue
        values = _floats(record)
        step = values.pop("step", None)
        if step is None:
            unreadable += 1
            continue
        for name, value in values.items():
            steps, seen = series.setdefault(name, ([], []))
            steps.append(step)
            seen.append(value)
    return Log(series, unreadable)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _floats(values: object) -> dict[str, float]:
    found = {str(name): _float(value) for name, value in _object(values).items()}
    return {name: value for name, value in found.items() if value is not None}


def _stage(value: object) -> dict[str, float | None]:
    return {key: _float(_object(value).get(key)) for key in ("seconds", "images_per_second")}


def _change(name: str, entry: Mapping[str, Any]) -> Change:
    ends = [_float(end) for end in entry["interval"]] if isinstance(entry.get("interval"), list) else []
    known = [end for end in ends if end is not None]
    better = entry.get("better")
    return Change(
        name=name,
        baseline=_float(entry.get("baseline")),
        aligned=_float(entry.get("aligned")),
        difference=_float(entry.get("difference")),
        relative=_float(entry.get("relative_change")),
        interval=(min(known), max(known)) if len(known) == len(ends) == 2 else None,
        interval_of="difference" if entry.get("interval_of") == "difference" else "relative_change",
        better=better if better in ("higher", "lower") else None,
    )
