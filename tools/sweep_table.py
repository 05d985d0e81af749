"""Print the points of a sweep as a Markdown table, for docs/results.md.

``python tools/sweep_table.py runs/sweep``; the points are those that ``tools/sweep.py --generator`` finished there.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from reals.runtime.io import read_json

COLUMNS = {
    "PSNR, dB": "reconstruction/psnr",
    "KL, nats": "latents/kl",
    "position share": "latents/position_share",
    "linear probe": "latents/linear_probe_accuracy",
    "SC, all, centred": "semantic_consistency/centred",
    "`classifier`, no guidance": "samples/guidance-1/fd/classifier",
    "guidance 3": "samples/guidance-3/fd/classifier",
    "to own reconstructions": "samples/guidance-1/fd_to_reconstructions/classifier",
    "guidance 3 ": "samples/guidance-3/fd_to_reconstructions/classifier",
    "`efficientnet-lite0` (seen)": "samples/guidance-1/fd/efficientnet-lite0",
}
"""What is shown of a point, by its heading."""


@dataclass(frozen=True)
class Arguments:
    """Which sweep."""

    sweep: tyro.conf.Positional[Path]
    """The sweep's directory."""


def points(sweep: Path) -> Iterator[tuple[int, float, float, dict[str, float]]]:
    """Yield channels, λ_k, λ_a and measurements of every finished point."""
    for path in sweep.glob("channels-*/metrics.json"):
        recipe = read_json(path.parent / "run.json")["recipe"]
        start = path.parent.name.split("-")[1]
        yield (
            int(start),
            recipe["objective"]["kl"],
            recipe["align"]["weight"],
            read_json(path)["arms"]["aligned"],
        )


def main() -> None:
    """Print the table."""
    found = sorted(points(tyro.cli(Arguments, description=__doc__).sweep), key=lambda point: point[:3])
    if not found:
        sys.exit("sweep_table: no finished points there; tools/sweep.py --generator makes them")
    lines = ["| channels | λ_k | λ_a | " + " | ".join(COLUMNS) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    for channels, kl, weight, measured in found:
        values = " | ".join(f"{measured[name]:.4g}" if name in measured else "–" for name in COLUMNS.values())
        lines.append(f"| {channels} | {kl:g} | {weight:g} | {values} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
