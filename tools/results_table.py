"""Print a run's comparison as a Markdown table, for docs/results.md.

``python tools/results_table.py runs/photos32``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from reals.runtime.io import read_json


@dataclass(frozen=True)
class Arguments:
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run's directory."""


def row(name: str, entry: dict[str, Any]) -> str:
    """Return one line: values, change, interval."""
    relative = entry["interval_of"] == "relative_change"
    change = entry["relative_change"] if relative else entry["difference"]
    interval = entry["interval"]
    style = "{:+.1%}" if relative else "{:+.3g}"
    shown = "–" if change is None else style.format(change)
    span = "–" if interval is None else f"{style.format(interval[0])} to {style.format(interval[1])}"
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[entry["better"]]
    return f"| {name}{arrow} | {entry['baseline']:.4g} | {entry['aligned']:.4g} | {shown} | {span} |"


def main() -> None:
    """Print the table, then what it cost."""
    metrics = read_json(tyro.cli(Arguments, description=__doc__).run / "metrics.json")
    lines = ["| | baseline | aligned | change | 95 % interval |", "|---|---|---|---|---|"]
    lines += [row(name, entry) for name, entry in metrics["comparison"].items()]
    real = {name: value for name, value in metrics["arms"]["baseline"].items() if name.startswith("real/fd/")}
    lines += ["", *(f"{name}: {value:.4g}" for name, value in real.items()), ""]
    for arm, stages in metrics["speed"].items():
        spent = ", ".join(f"{stage} {entry['seconds']:.0f} s" for stage, entry in stages.items())
        lines.append(f"{arm}: {spent}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
