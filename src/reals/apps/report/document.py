"""The frame of a page: one file that loads nothing."""

from datetime import UTC, datetime
from importlib.resources import files

import reals
from reals.apps.report.markup import Html, tag

# Nothing may be fetched: the browser itself holds the page to the promise of being one file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, description: str, *parts: Html, version: str = reals.__version__) -> str:
    """Return a whole page with a footer that says which ``version`` has measured."""
    style = files("reals.apps.report").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="description", content=description),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(style)),
    )
    day = datetime.now(UTC).strftime("%d %B %Y").lstrip("0")
    footer = tag(
        "footer",
        f"Measured with reals {version}; page written on {day}. ",
        "This file is whole: no scripts, nothing is loaded from anywhere. Send it as it is.",
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *parts, footer), lang='en-GB')}\n"
