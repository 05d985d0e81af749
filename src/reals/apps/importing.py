"""``reals import``: autoencoders that others trained, as directories that every command here takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from reals.apps.origin import Alignment, Mode, Origin, alignment_of, public_name, read_origin, without_statistics
from reals.latents.align import CONFIG_NAME, AlignHeads
from reals.latents.foreign_heads import recognise_heads
from reals.latents.normalise import SD_VAE_SCALING, LatentNormalisation, MinMax, Standardise
from reals.latents.statistics import (
    STATISTICS_NAME,
    LatentStatistics,
    read_statistics_file,
    write_statistics,
)
from reals.models.architecture import NORM_GROUPS, build_from_tensors
from reals.models.autoencoder import AutoencoderKL, latent_channels, load_autoencoder, save_autoencoder
from reals.models.checkpoint import find_autoencoder
from reals.models.compvis import from_compvis, is_compvis, to_current_names
from reals.runtime.errors import UserError
from reals.runtime.io import load_state, load_tensors, refuse_existing
from reals.runtime.progress import say

Normalisation = Literal["max-min", "std", "keep"]

_PICKLE = "diffusion_pytorch_model.bin"


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How a foreign autoencoder is to be read."""

    normalisation: Normalisation | None = None
    """Onto SD-VAE's range (Eq. 7), to deviation 1, or as the source has it; None: max-min if there are statistics and
    no shift of the source's own, else keep."""
    factor: float = SD_VAE_SCALING
    """What the result of Eq. 7 is multiplied by, for max-min."""
    statistics: Path | None = None
    """A mean_std.json; None takes the one in the source, if that is a directory and has one."""
    weights: str | None = None
    """Which of several autoencoders in a checkpoint, as the message that lists them names it; None: moving average."""
    norm_groups: int = NORM_GROUPS
    """Groups of a checkpoint's group normalisations, which no shape tells; latent-diffusion has 32."""

    def __post_init__(self) -> None:
        if self.factor <= 0.0:
            raise ValueError(f"factor is {self.factor}; it must be positive")
        if self.norm_groups < 1:
            raise ValueError(f"norm_groups is {self.norm_groups}; it must be at least 1")


@dataclass(frozen=True, eq=False)
class _Source:
    """What was read, before it is normalised."""

    autoencoder: AutoencoderKL
    heads: AlignHeads | None
    statistics: LatentStatistics | None
    weights: str
    mode: Mode
    alignment: Alignment | None
    folded: LatentNormalisation | None = None


def import_autoencoder(location: str, out: Path, config: ImportConfig | None = None) -> Path:
    """Write the autoencoder at ``location`` to the new directory ``out`` as the other commands take it; return ``out``.

    ``location`` is an ``AutoencoderKL``'s directory or hub id, the authors' directory with ``mean_std.json``, or a
    checkpoint (``.ckpt``, ``.pt``, ``.safetensors``) with latent-diffusion's or diffusers' names, in which a moving
    average is preferred. Float32; nothing in the source is executed.

    Raises:
        UserError: it cannot be read, ``out`` exists, or a normalisation is asked for that needs absent statistics.
    """
    config = ImportConfig() if config is None else config
    refuse_existing(out)
    path = Path(location).expanduser()
    source = _read_checkpoint(path, config) if path.is_file() else _read_directory(location, config)
    if config.statistics is not None:
        source = replace(source, statistics=read_statistics_file(config.statistics))
    normalised = _normalise(location, source, config)
    extras: list[Callable[[Path], object]] = [
        Origin(
            source=public_name(location),
            weights=source.weights,
            normalisation=source.mode,
            map=source.folded or normalised,
            alignment=source.alignment,
        ).write
    ]
    statistics = source.statistics
    if statistics is not None:
        extras.append(lambda directory: write_statistics(directory, statistics))
    if source.heads is not None:
        extras.append(source.heads.save)
    save_autoencoder(source.autoencoder, out, extras)
    return out


def _read_directory(location: str, config: ImportConfig) -> _Source:
    if config.weights is not None:
        raise UserError(f"--weights {config.weights}: only a checkpoint file holds several autoencoders; leave it out")
    path = Path(location).expanduser()
    if (path / _PICKLE).exists() and not any(path.glob("*.safetensors")):
        raise UserError(
            f"{path}: has its weights as {_PICKLE} only; give that file, {path / _PICKLE}, and its statistics, if any, "
            f"with --statistics {path / STATISTICS_NAME}"
        )
    autoencoder, statistics = load_autoencoder(location), path / STATISTICS_NAME
    origin = read_origin(path)
    return _Source(
        autoencoder=autoencoder,
        heads=AlignHeads.load(path) if (path / CONFIG_NAME).exists() else None,
        statistics=read_statistics_file(statistics) if statistics.exists() else None,
        weights="as they were" if origin is None else origin.weights,
        mode="factors" if origin is None else origin.normalisation,
        alignment=alignment_of(path),
        folded=origin.map if origin is not None and origin.normalisation == "folded" else None,
    )


def _read_checkpoint(path: Path, config: ImportConfig) -> _Source:
    checkpoint = load_tensors(path) if path.suffix == ".safetensors" else load_state(path)
    try:
        found = find_autoencoder(checkpoint, config.weights)
        renamed = from_compvis(found.tensors) if is_compvis(found.tensors) else to_current_names(found.tensors)
        autoencoder = build_from_tensors(renamed, config.norm_groups)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    where = f" at '{found.where}'" if found.where else ""
    weights = ("moving average" if found.averaged else "weights") + where
    say(f"{path}: took the {weights}" + ("" if found.averaged else ", which are no moving average"))
    heads = _heads(path, found.others, latent_channels(autoencoder))
    # The heads show that it was aligned; with what, and how strongly, the tensors do not say.
    alignment = None if heads is None else Alignment(encoder=None, weight=None)
    return _Source(autoencoder, heads, None, weights, "factors", alignment)


def _heads(path: Path, others: Mapping[str, Tensor], channels: int) -> AlignHeads | None:
    heads, places = recognise_heads(others, channels)
    if heads is not None:
        say(f"{path}: took its alignment heads from {' and '.join(places)}")
    elif others:
        names = sorted({name.split(".")[0] for name in others})
        listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        say(f"{path}: left out {len(others)} tensors that are no autoencoder and no known alignment heads ({listed})")
    return heads


def _normalise(location: str, source: _Source, config: ImportConfig) -> LatentNormalisation:
    """Attach the normalisation asked for and say which it is."""
    statistics, chosen = source.statistics, config.normalisation
    if chosen is None:
        own = source.autoencoder.config.get("shift_factor") is not None
        chosen = "keep" if statistics is None or own else "max-min"
    if chosen == "keep":
        normalisation = LatentNormalisation.of(source.autoencoder)
        say(f"normalisation: as it was, shift {normalisation.shift:g}, scale {normalisation.scale:g}")
        if statistics is None:
            say(without_statistics(location))
        return normalisation
    if statistics is None:
        raise UserError(
            f"--normalisation {chosen}: {location} has no {STATISTICS_NAME}; give --statistics FILE, or keep it as it "
            "is and let reals encode measure the statistics on photos"
        )
    build = MinMax(factor=config.factor) if chosen == "max-min" else Standardise()
    normalisation = build.from_statistics(statistics)
    normalisation.attach(source.autoencoder)
    say(f"normalisation: {chosen} of its statistics, shift {normalisation.shift:g}, scale {normalisation.scale:g}")
    return normalisation
