"""``reals evaluate`` and ``reals report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from reals.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Compare two sets of images: each a zip, a folder, or an ``.npz`` in the ADM layout."""

    reference: tyro.conf.Positional[str]
    """The photos that the samples should look like."""
    samples: tyro.conf.Positional[str]
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

    directory: tyro.conf.Positional[Path]
    """The run's directory."""


def evaluate(arguments: Sequence[str]) -> None:
    """Parse and run ``reals evaluate``."""
    parsed = parse(EvaluateArguments, arguments, verb="evaluate")
    from reals.apps.evaluate import evaluate as measure
    from reals.recipes.pipeline import prepare_process

    prepare_process()
    measure(parsed.reference, parsed.samples, output=parsed.out, seed=parsed.seed, replicates=parsed.replicates)


def report(arguments: Sequence[str]) -> None:
    """Parse and run ``reals report``."""
    parsed = parse(ReportArguments, arguments, verb="report")
    from reals.apps.report import write_report
    from reals.runtime.progress import say

    say(f"report: {write_report(parsed.directory)}")
