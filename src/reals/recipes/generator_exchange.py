"""Generators from and for other programs: SiT's, DiT's and REPA's files, and diffusers' ``DiTTransformer2DModel``.

A published transformer says nothing of the latent space that it knows. Here it meets its autoencoder and becomes a
generator like one that was trained here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reals.diffusion.gaussian import FixedLarge, GaussianDiffusion, LearnedRange
from reals.diffusion.gaussian.schedule import LinearBetas
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, ScorePrediction, VelocityPrediction
from reals.diffusion.process import Process
from reals.latents.codec import LatentCodec
from reals.latents.normalise import SD_VAE_SCALING, LatentNormalisation
from reals.models.diffusers_transformer import load_diffusers, save_diffusers
from reals.models.published import (
    DiffusionTraining,
    Family,
    FlowTraining,
    PathName,
    Prediction,
    PublishedTransformer,
    read_published,
)
from reals.models.published_export import write_published
from reals.recipes.generator import GeneratorCard, load_generator, load_projectors, save_generator
from reals.runtime.errors import UserError
from reals.runtime.io import load_tensors, read_json, refuse_existing
from reals.runtime.progress import say

_PATHS: Mapping[PathName, Linear | GVP | VP] = {"Linear": Linear(), "GVP": GVP(), "VP": VP()}
_PREDICTIONS: Mapping[Prediction, VelocityPrediction | ScorePrediction | NoisePrediction] = {
    "velocity": VelocityPrediction(),
    "score": ScorePrediction(),
    "noise": NoisePrediction(),
}
_PLAIN = LatentNormalisation(shift=0.0, scale=SD_VAE_SCALING)
"""What every published SiT, DiT and REPA was trained with."""
_SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class GeneratorImport:
    """What a file may leave open."""

    family: Family | None = None
    """Whose file it is, where neither its settings, tensors nor name tell."""
    heads: int | None = None
    """Attention heads, for sizes that were never published."""
    grid: int | None = None
    """Side of the latent in positions, where the file has no position embedding."""
    path: PathName | None = None
    """A flow's interpolant, in place of what the file says or, if it says nothing, the linear one."""
    prediction: Prediction | None = None
    """What a flow's network predicts, in place of what the file says or, if it says nothing, the velocity."""
    copied: bool = False
    """A diffusers directory whose weights are a copy of DiT's own, as on the hub ``facebook/DiT-XL-2-256``: use the
    time frequencies that they were trained with, not those that diffusers gives them."""


def import_generator(source: Path, autoencoder: str, out: Path, config: GeneratorImport | None = None) -> Path:
    """Write the transformer at ``source`` to the new generator directory ``out``, and return ``out``.

    Args:
        source: a ``.pt``, ``.pth`` or ``.safetensors`` of SiT's, DiT's or REPA's code, or the directory of a
            ``DiTTransformer2DModel`` or of a ``DiTPipeline``.
        autoencoder: directory or hub id of the one in whose latent space it was trained, which nothing in a
            transformer tells; published ones know SD-VAE's, times 0.18215.
        out: the directory to make.
        config: what the file leaves open.

    Raises:
        UserError: ``out`` exists, either of them cannot be read, or the latents have other channels.
    """
    config = GeneratorImport() if config is None else config
    refuse_existing(out)
    source = source.expanduser()
    found = _read(source, config)
    codec = LatentCodec.from_directory(autoencoder)
    if codec.latent_channels != found.latent_channels:
        raise UserError(
            f"{source}: was trained on latents of {found.latent_channels} channels, and those of {autoencoder} have "
            f"{codec.latent_channels}; give the autoencoder that it was trained with"
        )
    side, classes = found.grid * codec.downsampling, found.num_classes
    for note in found.notes:
        say(f"{source}: {note}")
    say(f"{source}: a {found.family} of {classes} classes, {found.grid}x{found.grid} latents, {side}x{side} pixels")
    if codec.normalisation != _PLAIN:
        say(
            f"{autoencoder}: has shift {codec.normalisation.shift:g} and scale {codec.normalisation.scale:g}; "
            f"published weights were trained with SD-VAE's latents times {SD_VAE_SCALING}, without a shift"
        )
    card = GeneratorCard(
        transformer=found.config,
        latent_channels=found.latent_channels,
        grid=found.grid,
        num_classes=classes,
        class_names=_class_names(source, classes),
        autoencoder_fingerprint=codec.fingerprint,
        steps=0,
        process=_process(found),
    )
    save_generator(out, card, found.weights, found.projectors)
    return out


def _read(source: Path, config: GeneratorImport) -> PublishedTransformer:
    if not source.exists():
        raise UserError(
            f"{source}: no such file or directory; give the file of a SiT, DiT or REPA transformer, or the directory "
            "of a diffusers DiTTransformer2DModel"
        )
    if source.is_dir():
        found = _read_directory(source, config)
    elif config.copied:
        raise UserError(f"{source}: --copied is about directories of diffusers; leave it out for a file")
    else:
        found = read_published(source, family=config.family, heads=config.heads, grid=config.grid)
    return _retrained(source, found, config)


def _read_directory(source: Path, config: GeneratorImport) -> PublishedTransformer:
    if config.family == "REPA":
        raise UserError(f"{source}: diffusers has no transformers of REPA; give --family SiT for those of flows")
    for flag in ("heads", "grid"):
        if getattr(config, flag) is not None:
            raise UserError(f"{source}: its config.json tells its size; leave --{flag} out")
    found = load_diffusers(source, copied=config.copied)
    # A directory of ours says what it was trained for; of others DiT is assumed, and only the user knows better.
    if config.family in (None, found.family):
        return found
    training = DiffusionTraining() if config.family == "DiT" else FlowTraining()
    return load_diffusers(source, training=training, copied=config.copied)


def _retrained(source: Path, found: PublishedTransformer, config: GeneratorImport) -> PublishedTransformer:
    """Return ``found`` with the path and prediction that the user knows."""
    if config.path is None and config.prediction is None:
        return found
    if not isinstance(found.training, FlowTraining):
        raise UserError(f"{source}: a DiT has no interpolant and predicts noise; leave --interpolant, --prediction out")
    path, prediction = config.path or found.training.path, config.prediction or found.training.prediction
    # Its time and sign were turned as a velocity's.
    if found.family == "REPA" and (path == "VP" or prediction != "velocity"):
        raise UserError(f"{source}: REPA predicts velocities on the linear or GVP path; give --family SiT for a SiT")
    return replace(found, training=FlowTraining(path=path, prediction=prediction))


def _class_names(source: Path, num_classes: int) -> tuple[str, ...]:
    """Return the names in a DiTPipeline's ``model_index.json``, else numbers; one class stands for no labels."""
    if num_classes == 1:
        return ()
    names: Any = None
    for directory in (source, source.parent):
        if source.is_dir() and (directory / "model_index.json").exists():
            index = read_json(directory / "model_index.json")
            names = index.get("id2label") if isinstance(index, dict) else None
            break
    known = names if isinstance(names, dict) else {}
    return tuple(str(known.get(str(number), f"class {number}")) for number in range(num_classes))


def _process(found: PublishedTransformer) -> Process:
    training = found.training
    if isinstance(training, FlowTraining):
        return FlowMatching(interpolant=_PATHS[training.path], prediction=_PREDICTIONS[training.prediction])
    # Of the two fixed variances DiT's code takes the larger.
    variance = LearnedRange() if found.config.variance else FixedLarge()
    return GaussianDiffusion(betas=LinearBetas(steps=training.timesteps), variance=variance)


@dataclass(frozen=True, kw_only=True)
class GeneratorExport:
    """How a generator is to be written."""

    family: Family | None = None
    """Whose code is to read a file; None: DiT for Gaussian diffusion, else SiT."""
    projector: Path | None = None
    """The ``projector.safetensors`` of a training with REPA, for REPA's code; an imported one's is found by itself."""
    copied: bool = False
    """For diffusers: leave the layer after the time's sinusoid as it is instead of fitting it to diffusers'
    frequencies; reading it back with ``copied`` gives the same bits."""


def export_generator(generator: Path, out: Path, config: GeneratorExport | None = None) -> Path:
    """Write a generator to ``out`` as other programs read it, and return ``out``.

    A ``.pt``, ``.pth`` or ``.safetensors`` is for the code of SiT, DiT or REPA; a directory is for diffusers.

    Raises:
        UserError: there is no generator, ``out`` exists, or the other program has no network that computes the same.
    """
    config = GeneratorExport() if config is None else config
    directory = out.suffix == "" or out.suffix[1:].isdecimal()
    _check_export(out, config, directory)
    network, card = load_generator(generator, torch.device("cpu"))
    family = config.family or ("DiT" if isinstance(card.process, GaussianDiffusion) else "SiT")
    try:
        transformer = PublishedTransformer(
            config=card.transformer,
            latent_channels=card.latent_channels,
            grid=card.grid,
            num_classes=card.num_classes,
            weights=network.state_dict(),
            family=family,
            training=_training(card.process),
            projectors=_projectors(generator, config.projector) if family == "REPA" else {},
        )
        if directory:
            save_diffusers(out, transformer, copied=config.copied)
        else:
            write_published(out, transformer, family)
    except UserError as error:
        raise UserError(f"{generator}: {error}") from None
    if family == "REPA" and not transformer.projectors:
        say(
            f"{out}: has no projectors, which REPA's generate.py wants; give --projector, or load it without strictness"
        )
    return out


def _check_export(out: Path, config: GeneratorExport, directory: bool) -> None:
    if not directory and out.suffix not in _SUFFIXES:
        raise UserError(
            f"{out}: has the suffix '{out.suffix}'; give .safetensors, .pt or .pth for the code of SiT, DiT or REPA, "
            "or a directory for diffusers"
        )
    if directory and config.family is not None:
        raise UserError(f"{out}: a directory is for diffusers; for {config.family}'s code give a .pt or .safetensors")
    if config.copied and not directory:
        raise UserError(f"{out}: --copied is about directories of diffusers; leave it out for a file")
    if config.projector is not None and config.family != "REPA":
        raise UserError("--projector: only REPA's code wants one; give --family REPA, or leave it out")
    if out.is_file():
        raise UserError(f"{out}: exists already; give another --out")
    refuse_existing(out)


def _projectors(generator: Path, given: Path | None) -> dict[str, Tensor]:
    """Return projectors under REPA's names, which number the projectors first: a training here has one."""
    if given is None:
        return load_projectors(generator)
    return {f"0.{name}": tensor for name, tensor in load_tensors(given).items()}


def _training(process: Process) -> FlowTraining | DiffusionTraining:
    """Return what published code calls the process.

    Raises:
        UserError: it has none like it.
    """
    if isinstance(process, GaussianDiffusion):
        if process.betas != LinearBetas():
            raise UserError("it has other betas than DiT, which other programs would not use; only DiT's are exported")
        return DiffusionTraining()
    paths: list[PathName] = [name for name, known in _PATHS.items() if known == process.interpolant]
    if not paths:
        raise UserError(f"its path is {process.interpolant}, and SiT has it with other rates only")
    predictions: list[Prediction] = [name for name, known in _PREDICTIONS.items() if known == process.prediction]
    return FlowTraining(path=paths[0], prediction=predictions[0])
