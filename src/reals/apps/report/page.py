"""Puts the page together: the answer first, then the pictures, then what it rests on."""

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import reals
from reals.apps.report import sections
from reals.apps.report.inputs import Run, read_run
from reals.apps.report.markup import Html, tag
from reals.apps.report.verdict import Verdict, judge
from reals.runtime.io import write_text

# Nothing may be fetched: the browser itself holds the page to the promise of being one file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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
    body = tag(
        "body",
        sections.opening(run, verdict),
        links,
        tag("main", *(part.html for part in parts)),
        _footer(run),
    )
    return f"<!doctype html>\n{tag('html', _head(run, verdict), body, lang='en-GB')}\n"


def _head(run: Run, verdict: Verdict) -> Html:
    style = files("reals.apps.report").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="description", content=verdict.lead),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{verdict.headline} · {sections.data_name(run)} · reals"),
        tag("style", Html(style)),
    )


def _footer(run: Run) -> Html:
    version = run.section("versions").get("reals", reals.__version__)
    day = datetime.now(UTC).strftime("%d %B %Y").lstrip("0")
    return tag(
        "footer",
        f"Measured with reals {version}; page written on {day}. ",
        "This file is whole: no scripts, nothing is loaded from anywhere. Send it as it is.",
    )
