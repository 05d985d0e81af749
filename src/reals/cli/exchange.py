"""``reals export``, ``import``, ``push`` and ``pull``: autoencoders for other programs, from them, and for others.

With ``--generator``, export and import concern diffusion transformers: :mod:`reals.cli.generators`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reals.cli import generators
from reals.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write an autoencoder as other programs want it; plain ``diffusers.AutoencoderKL`` loads the result.

    A diffusion transformer: ``reals export --generator DIR``, explained by ``reals export --generator --help``.
    """

    autoencoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="AUTOENCODER")]
    """Directory of the autoencoder, or a hub id."""
    out: Path
    """The directory to make."""
    normalisation: Literal["factors", "folded"] = "factors"
    """Shift and scale as numbers in config.json, or as part of the weights."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the stored weights."""
    pipeline_factor: float = 1.0
    """For folded: what the program that will use it multiplies latents by, such as 0.18215; 1 for none."""


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Make an autoencoder directory from one that others trained: the authors' release, an AutoencoderKL, a checkpoint.

    Nothing in a checkpoint is executed; of several copies the moving average is taken. A SiT, DiT or REPA transformer:
    ``reals import --generator FILE``, explained by ``reals import --generator --help``.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Directory, hub id, or a .ckpt, .pt, .bin or .safetensors file."""
    out: Path
    """The directory to make."""
    normalisation: Literal["max-min", "std", "keep"] | None = None
    """Onto SD-VAE's range (Eq. 7), to deviation 1, or as it is; without it max-min if there are statistics and no shift
    yet, else keep."""
    factor: float = 0.18215
    """What the result of Eq. 7 is multiplied by, for max-min; 1 leaves Eq. 7 as it is."""
    statistics: Path | None = None
    """A mean_std.json; a directory's own is found by itself."""
    weights: str | None = None
    """Which of several autoencoders in a checkpoint to take."""
    norm_groups: int = 32
    """Groups of a checkpoint's group normalisations, which its tensors do not tell."""


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """Upload an autoencoder to the Hugging Face Hub, with a model card made from what lies beside it."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Directory of the autoencoder; a README.md in it is taken as the card."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REPO_ID")]
    """Where to, as owner/name; it is made if it does not exist."""
    private: bool = False
    """Only you see it; --private alone means --private True."""
    license: str | None = None
    """The hub's identifier of the license you give it under, such as apache-2.0; without it the card names none."""


@dataclass(frozen=True, kw_only=True)
class PullArguments:
    """Download an autoencoder from the Hugging Face Hub and check that it loads."""

    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REPO_ID")]
    """Where from, as owner/name."""
    out: Path
    """The directory to make."""
    revision: str | None = None
    """Branch, tag or commit; the newest by default."""


def export(arguments: Sequence[str]) -> None:
    """Parse and run ``reals export``."""
    if generators.concerns_generator(arguments):
        generators.export_generator(arguments)
        return
    parsed = parse(ExportArguments, arguments, verb="export")
    from reals.apps.export import export_autoencoder
    from reals.runtime.progress import say

    out = export_autoencoder(
        parsed.autoencoder,
        parsed.out,
        normalisation=parsed.normalisation,
        dtype=parsed.dtype,
        pipeline_factor=parsed.pipeline_factor,
    )
    say(f"autoencoder: {out}")


def import_(arguments: Sequence[str]) -> None:
    """Parse and run ``reals import``."""
    if generators.concerns_generator(arguments):
        generators.import_generator(arguments)
        return
    parsed = parse(ImportArguments, arguments, verb="import")
    from reals.apps.importing import ImportConfig, import_autoencoder
    from reals.runtime.errors import UserError
    from reals.runtime.progress import say

    try:
        config = ImportConfig(
            normalisation=parsed.normalisation,
            factor=parsed.factor,
            statistics=parsed.statistics,
            weights=parsed.weights,
            norm_groups=parsed.norm_groups,
        )
    except ValueError as error:
        raise UserError(f"import: {error}") from None
    say(f"autoencoder: {import_autoencoder(parsed.source, parsed.out, config)}")


def push(arguments: Sequence[str]) -> None:
    """Parse and run ``reals push``."""
    parsed = parse(PushArguments, _with_values(arguments, "--private"), verb="push")
    from reals.apps.sharing import push as upload
    from reals.runtime.progress import say

    say(upload(parsed.directory, parsed.repository, private=parsed.private, license_name=parsed.license))


def pull(arguments: Sequence[str]) -> None:
    """Parse and run ``reals pull``."""
    parsed = parse(PullArguments, arguments, verb="pull")
    from reals.apps.sharing import pull as download
    from reals.runtime.progress import say

    say(f"autoencoder: {download(parsed.repository, parsed.out, revision=parsed.revision)}")


def _with_values(arguments: Sequence[str], switch: str) -> list[str]:
    """Return the arguments with ``True`` after a ``switch`` that stands alone; every other flag has a value."""
    following = [*arguments[1:], ""]
    return [
        f"{argument}=True" if argument == switch and after not in ("True", "False") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]
