"""``reals evaluate`` and ``reals report``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reals.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Compare two sets of images: each a zip, a folder, or an ``.npz`` in the ADM layout."""

    reference: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REFERENCE")]
    """The photos that the samples should look like."""
    samples: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SAMPLES")]
    """The generated images."""
    out: Path | None = None
    """Also write the result, with its protocol, to this JSON file."""
    replicates: int = 200
    """Bootstrap resamples behind the intervals."""
    seed: int = 0
    """Seeds the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write ``DIR/report.html``, one self-contained page, from a run's ``metrics.json`` and pictures."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run's directory."""


def evaluate(arguments: Sequence[str]) -> None:
    """Parse and run ``reals evaluate``."""
    parsed = parse(EvaluateArguments, arguments, verb="evaluate")
    from reals.apps.evaluate import evaluate as measure
    from reals.apps.evaluate import render
    from reals.recipes.pipeline import prepare_process
    from reals.recipes.workspace import refuse_file

    device = prepare_process()
    if parsed.out is not None:
        refuse_file(parsed.out.parent)
    result = measure(
        parsed.reference,
        parsed.samples,
        output=parsed.out,
        seed=parsed.seed,
        replicates=parsed.replicates,
        device=device,
    )
    sys.stdout.write(render(result) + "\n")


def report(arguments: Sequence[str]) -> None:
    """Parse and run ``reals report``."""
    parsed = parse(ReportArguments, arguments, verb="report")
    from reals.apps.report import write_report
    from reals.runtime.progress import say

    say(f"report: {write_report(parsed.directory)}")
