"""``reals analyze``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reals.cli.parse import parse
from reals.recipes.analysis_config import AnalysisConfig


@dataclass(frozen=True, kw_only=True)
class AnalyzeArguments:
    """What latent spaces are worth, before generators are trained in them; several are compared side by side.

    DIR is a run of ``reals run`` (its arms are compared), the output of ``reals align``, or a diffusers AutoencoderKL.
    Writes ``analysis.json`` and ``analysis.html``; ``reals report`` of a run includes them.
    """

    directories: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR [DIR …]")]
    """Where the latent spaces are."""
    data: str | None = None
    """Photos, or the images directory of an earlier command; by default the images of the first DIR that has some."""
    out: Path | None = None
    """Where to write; DIR/analysis by default, needed for several."""
    image_size: int | None = None
    """Side that photos are cropped to; by default that of the first DIR's images."""
    encoder: str | None = None
    """DINOv2 model to compare latents with, directory or hub id; by default EfficientNet-Lite0, which is offline."""
    lpips: str | None = None
    """VGG16's weights (torchvision's vgg16-397923af.pth) to measure LPIPS with: a path, an https address, or
    owner/name:file of the hub; without them it is not measured."""
    inception: str | None = None
    """The FID Inception weights (pt_inception-2015-12-05-6726825d.pth) to measure rFID with: a path, an https address,
    owner/name:file of the hub, or "published" for the published file's address; without them it is not measured."""
    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = AnalysisConfig()
    """What is measured, and on how much."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 8")


def analyze(arguments: Sequence[str]) -> None:
    """Parse and run ``reals analyze``."""
    parsed = parse(AnalyzeArguments, arguments, verb="analyze")
    from reals.models.inception import INCEPTION_URL
    from reals.models.lpips import Lpips
    from reals.recipes.analysis import analyse
    from reals.recipes.pipeline import prepare_process

    analyse(
        parsed.directories,
        parsed.out,
        parsed.config,
        data=parsed.data,
        image_size=parsed.image_size,
        encoder=parsed.encoder,
        lpips=None if parsed.lpips is None else Lpips(trunk=parsed.lpips),
        inception=INCEPTION_URL if parsed.inception == "published" else parsed.inception,
        device=prepare_process(),
    )
