"""Puts the page together: the answer first, then the pictures, then what it rests on."""

from pathlib import Path

import reals
from reals.apps.report import sections
from reals.apps.report.document import document
from reals.apps.report.inputs import Run, read_run
from reals.apps.report.markup import tag
from reals.apps.report.verdict import judge
from reals.runtime.io import write_text


def write_report(run_directory: Path) -> Path:
    """Write ``DIR/report.html`` from ``DIR/metrics.json`` and what lies beside it, and return its path.

    The page is one file: pictures, style and charts are inside it, and it has no scripts. Parts of a run that do not
    exist yet are named on the page as absent.

    Raises:
        UserError: there is no ``metrics.json``, or it is not the measurements of a run.
    """
    path = run_directory / "report.html"
    write_text(path, render(read_run(run_directory)))
    return path


def render(run: Run) -> str:
    """Return the page of a run."""
    verdict = judge(run)
    parts = sections.build(run, verdict)
    links = tag("nav", *(tag("a", part.title, href=f"#{part.anchor}") for part in parts), aria_label="Sections")
    return document(
        f"{verdict.headline} · {sections.data_name(run)} · reals",
        verdict.lead,
        sections.opening(run, verdict),
        links,
        tag("main", *(part.html for part in parts)),
        version=str(run.section("versions").get("reals", reals.__version__)),
    )
