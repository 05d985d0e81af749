"""Where an autoencoder comes from and what it was aligned with, as far as its directory tells."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reals.latents.align import CONFIG_NAME as HEADS_NAME
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import STATISTICS_NAME
from reals.runtime.config import from_dict, to_dict
from reals.runtime.io import read_json, write_json

ORIGIN_NAME = "origin.json"
"""Written beside an exported or imported autoencoder. Nothing that encodes or decodes reads it."""

Mode = Literal["factors", "folded"]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What alignment was trained with; None is unknown."""

    encoder: str | None
    """The semantic encoder."""
    weight: float | None
    """λ_a."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How an autoencoder directory was made from another one or from a checkpoint."""

    source: str
    """Hub id, or name of the directory or file, without the folders that it lay in."""
    weights: str
    """Which copy of the weights it is, if the source held several."""
    normalisation: Mode
    """Whether shift and scale stand in ``config.json`` or are part of the weights."""
    map: LatentNormalisation
    """What ``config.json`` says, or what the weights contain since folding."""
    alignment: Alignment | None
    """None where nothing says that it was aligned."""

    def write(self, directory: Path) -> None:
        """Write ``origin.json`` into an autoencoder's directory."""
        write_json(directory / ORIGIN_NAME, to_dict(self))


def read_origin(directory: Path) -> Origin | None:
    """Return what ``origin.json`` says, or None where there is none.

    Raises:
        UserError: it is malformed.
    """
    path = directory / ORIGIN_NAME
    return from_dict(Origin, read_json(path), str(path)) if path.exists() else None


def public_name(location: str) -> str:
    """Return a hub id as it is, and of a path the last part: the rest concerns its owner only."""
    path = Path(location).expanduser()
    if path.exists() or location.startswith((".", "/", "~")) or location.count("/") != 1:
        return path.resolve().name
    return location


def without_statistics(location: str) -> str:
    """Return the line for an autoencoder that brings no latent statistics: where they can come from."""
    if Path(location).expanduser().exists():
        return f"{location}: has no {STATISTICS_NAME}; reals encode measures latent statistics on photos"
    return (
        f"{location}: by a hub id only weights and configuration come; reals pull also brings latent statistics and "
        "alignment heads, where the repository has them"
    )


def alignment_of(directory: Path) -> Alignment | None:
    """Return what the autoencoder in ``directory`` was aligned with, or None where nothing says that it was.

    ``origin.json`` is asked first. Otherwise alignment heads tell that it was and with which weight, and the
    ``run.json`` of the run that it lies in names the encoder.
    """
    origin = read_origin(directory)
    if origin is not None:
        return origin.alignment
    if not (directory / HEADS_NAME).exists():
        return None
    heads = read_json(directory / HEADS_NAME)
    run = run_of(directory)
    semantic = read_json(run / "run.json")["recipe"].get("semantic", {}) if run else {}
    name = semantic.get("model", semantic.get("type"))
    return Alignment(encoder=None if name is None else public_name(str(name)), weight=_weight(heads))


def _weight(heads: Any) -> float | None:
    align = heads.get("align") if isinstance(heads, dict) else None
    weight = align.get("weight") if isinstance(align, dict) else None
    return float(weight) if isinstance(weight, int | float) else None


def run_of(directory: Path) -> Path | None:
    """Return the run that an autoencoder lies in: ``RUN/autoencoder`` or ``RUN/ARM/autoencoder``; or None."""
    place = directory.expanduser().resolve()
    if place.name != "autoencoder":
        return None
    for run in (place.parent, place.parent.parent):
        if (run / "run.json").exists():
            description = read_json(run / "run.json")
            if isinstance(description, dict) and isinstance(description.get("recipe"), dict):
                return run
    return None
