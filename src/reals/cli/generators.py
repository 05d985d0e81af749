"""``reals import --generator`` and ``reals export --generator``: diffusion transformers from and for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reals.cli.parse import parse

_FLAG = "--generator"


@dataclass(frozen=True, kw_only=True)
class GeneratorImportArguments:
    """Make a generator that ``reals sample`` takes from a SiT, DiT or REPA transformer that others trained.

    Nothing in the file is executed; of a checkpoint's copies the moving average is taken, and sizes follow from shapes.
    """

    generator: Path
    """A .pt, .pth or .safetensors, or the directory of a diffusers DiTTransformer2DModel or DiTPipeline."""
    autoencoder: str
    """Directory or hub id of the autoencoder in whose latent space it was trained; published ones know SD-VAE's."""
    out: Path
    """The directory to make."""
    family: Literal["SiT", "DiT", "REPA"] | None = None
    """Whose it is, where neither its settings, tensors nor name tell: SiT and DiT look the same."""
    heads: int | None = None
    """Attention heads, for sizes that were never published."""
    grid: int | None = None
    """Side of the latent (32 for 256x256 images), where the file has no position embedding."""
    interpolant: Literal["linear", "gvp", "vp"] | None = None
    """A flow's path; without it what the file says, else linear."""
    prediction: Literal["velocity", "score", "noise"] | None = None
    """What a flow's network predicts; without it what the file says, else velocity."""
    copied: bool = False
    """For a diffusers directory whose weights are a copy of DiT's own, as facebook/DiT-XL-2-256: use DiT's time
    frequencies, not diffusers'."""


@dataclass(frozen=True, kw_only=True)
class GeneratorExportArguments:
    """Write a generator for other programs: a file for SiT's, DiT's or REPA's code, a directory for diffusers."""

    generator: Path
    """What ``reals train`` or ``reals import --generator`` wrote."""
    out: Path
    """A .pt, .pth or .safetensors for published code; a directory, loaded by DiTTransformer2DModel.from_pretrained."""
    family: Literal["SiT", "DiT", "REPA"] | None = None
    """Whose code is to read the file; without it DiT for Gaussian diffusion, else SiT."""
    projector: Path | None = None
    """For REPA: projector.safetensors of the training; that of an imported generator is found by itself."""
    copied: bool = False
    """For diffusers: copy the layer after the time's sinusoid instead of fitting it to diffusers' frequencies."""


def concerns_generator(arguments: Sequence[str]) -> bool:
    """Return whether a command's arguments name a generator, not an autoencoder."""
    return any(argument == _FLAG or argument.startswith(f"{_FLAG}=") for argument in arguments)


def import_generator(arguments: Sequence[str]) -> None:
    """Parse and run ``reals import --generator``."""
    parsed = parse(GeneratorImportArguments, _only_help(arguments), verb="import")
    from reals.models.published import PathName
    from reals.recipes import generator_exchange
    from reals.runtime.progress import say

    paths: dict[str | None, PathName] = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
    config = generator_exchange.GeneratorImport(
        family=parsed.family,
        heads=parsed.heads,
        grid=parsed.grid,
        path=paths.get(parsed.interpolant),
        prediction=parsed.prediction,
        copied=parsed.copied,
    )
    out = generator_exchange.import_generator(parsed.generator, parsed.autoencoder, parsed.out, config)
    say(f"generator: {out}")


def export_generator(arguments: Sequence[str]) -> None:
    """Parse and run ``reals export --generator``."""
    parsed = parse(GeneratorExportArguments, _only_help(arguments), verb="export")
    from reals.recipes import generator_exchange
    from reals.runtime.progress import say

    config = generator_exchange.GeneratorExport(family=parsed.family, projector=parsed.projector, copied=parsed.copied)
    say(f"generator: {generator_exchange.export_generator(parsed.generator, parsed.out, config)}")


def _only_help(arguments: Sequence[str]) -> Sequence[str]:
    """Return ``--help`` alone where it is asked for: ``--generator --help`` would take it for a missing value."""
    return ["--help"] if {"-h", "--help"} & set(arguments) else arguments
