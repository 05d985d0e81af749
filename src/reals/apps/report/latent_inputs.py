"""Reads ``analysis.json`` into typed records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.runtime.errors import UserError
from reals.runtime.io import read_json

FORMAT = 1
ANALYSIS_NAME = "analysis.json"
_PALETTE = ("#4253c9", "#c4512d", "#1d8a6b", "#a8418f", "#8a6d1d", "#2b87b8", "#6b4fb0", "#5d7a1f")


@dataclass(frozen=True)
class SpaceResult:
    """One analysed latent space."""

    name: str
    colour: str
    channels: int
    downsampling: int
    grid: tuple[int, int]
    settings: dict[str, float]
    measured: dict[str, dict[str, float]]
    curves: dict[str, Any]
    not_measured: dict[str, str]
    picture: str

    def value(self, name: str) -> float | None:
        """Return a number, or None where it was not measured."""
        entry = self.measured.get(name)
        return None if entry is None else entry["value"]

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the ends of a number's 95 % interval, if it has one."""
        entry = self.measured.get(name, {})
        return (entry["low"], entry["high"]) if "low" in entry else None


@dataclass(frozen=True)
class Analysis:
    """Latent spaces measured on the same photos."""

    directory: Path
    spaces: tuple[SpaceResult, ...]
    diffusability: dict[str, Any] | None
    map_labels: tuple[str, ...]
    photos: str
    protocol: dict[str, Any]


def read_analysis(directory: Path) -> Analysis:
    """Read ``DIR/analysis.json``.

    Raises:
        UserError: it is missing, or not an analysis of this version.
    """
    path = directory / ANALYSIS_NAME
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("spaces"), list):
        raise UserError(f"{path}: not an analysis of reals (no list 'spaces'); analyse again")
    if found.get("format") != FORMAT:
        raise UserError(f"{path}: format {found.get('format')!r}, expected {FORMAT}; analyse again with this version")
    return Analysis(
        directory=directory,
        spaces=tuple(_space(entry, number) for number, entry in enumerate(found["spaces"])),
        diffusability=found.get("diffusability"),
        map_labels=tuple((found.get("map") or {}).get("labels", ())),
        photos=found["photos"],
        protocol=found["protocol"],
    )


def _space(entry: dict[str, Any], number: int) -> SpaceResult:
    # The arms of a single run keep the colours that they have everywhere else.
    colours = {"baseline": "var(--baseline)", "aligned": "var(--aligned)"}
    return SpaceResult(
        name=entry["name"],
        colour=colours.get(entry["name"], _PALETTE[number % len(_PALETTE)]),
        channels=entry["channels"],
        downsampling=entry["downsampling"],
        grid=(entry["grid"][0], entry["grid"][1]),
        settings=entry["settings"],
        measured=entry["measured"],
        curves=entry["curves"],
        not_measured=entry["not_measured"],
        picture=entry["picture"],
    )
