"""The page of an analysis, and the same as a section of a run's report."""

from pathlib import Path, PurePath

from reals.apps.report import latent_sections, tables
from reals.apps.report.document import document
from reals.apps.report.latent_inputs import ANALYSIS_NAME, Analysis, read_analysis
from reals.apps.report.markup import Html, join, tag
from reals.runtime.errors import UserError
from reals.runtime.io import write_text

PAGE_NAME = "analysis.html"


def write_analysis_page(directory: Path) -> Path:
    """Write ``DIR/analysis.html`` from ``DIR/analysis.json`` and the pictures beside it, and return its path.

    Raises:
        UserError: there is no ``analysis.json``, or it is not one of this version.
    """
    path = directory / PAGE_NAME
    write_text(path, render(read_analysis(directory)))
    return path


def latent_space_section(run_directory: Path) -> Html | None:
    """Return the figures of ``DIR/analysis`` for the report of a run, or None if it was not analysed.

    An analysis that cannot be read is named there: it must not stop the report of the run.
    """
    directory = run_directory / "analysis"
    if not (directory / ANALYSIS_NAME).exists():
        return None
    try:
        analysis = read_analysis(directory)
    except UserError as error:
        return tag("p", str(error), class_="absent")
    parts = [
        part
        for title, about, html in latent_sections.figures(analysis)
        for part in (tag("h3", title), tag("p", about, class_="about"), html)
    ]
    table = tag("details", tag("summary", "All numbers of the analysis"), latent_sections.numbers(analysis))
    return join([*parts, table])


def render(analysis: Analysis) -> str:
    """Return the page."""
    title, lead = _answer(analysis)
    figures = latent_sections.figures(analysis)
    parts = [(f"figure-{number}", name, about, html) for number, (name, about, html) in enumerate(figures)]
    parts.append(("numbers", "Numbers", _ABOUT_NUMBERS, latent_sections.numbers(analysis)))
    parts.append(("protocol", "Protocol", "What every number depends on.", tables.protocol(analysis.protocol)))
    links = tag("nav", *(tag("a", name, href=f"#{anchor}") for anchor, name, _, _ in parts), aria_label="Sections")
    sections = [
        tag("section", tag("h2", name), tag("p", about, class_="about"), html, id=anchor)
        for anchor, name, about, html in parts
    ]
    header = tag(
        "header",
        tag("p", tag("b", "reals"), " · what are these latent spaces worth?", class_="eyebrow"),
        tag("div", tag("h1", title), tag("p", lead, class_="lead"), class_="answer"),
        _cards(analysis),
        class_="verdict-unclear",
    )
    return document(f"{title} · reals", lead, header, links, tag("main", *sections))


def _answer(analysis: Analysis) -> tuple[str, str]:
    photos = analysis.protocol["images"]
    name = PurePath(str(analysis.protocol.get("data", ""))).name
    count = f"{photos['count']:,}".replace(",", "\u202f")
    seen = f"Measured on {count} held-out photos of {photos['size']}×{photos['size']} pixels ({name})."
    if analysis.diffusability is None:
        space = analysis.spaces[0]
        return f"The latent space {space.name}", f"{seen} A score needs a second space to compare with."
    score = analysis.diffusability["score"]
    order = sorted(score, key=lambda space: -score[space])
    written = ", ".join(f"{space} {score[space]:.2f}" for space in order)
    if score[order[0]] == score[order[1]]:
        title = "No latent space stands out"
    else:
        title = f"{order[0]} promises the easiest latent space"
    return title, f"Diffusability score: {written}. {seen} A promise to be checked by training a generator."


def _cards(analysis: Analysis) -> Html:
    cards = []
    for space in analysis.spaces:
        rows, columns = space.grid
        settings = {"kl": "λ_k", "align": "λ_a"}
        known = [f"{words} {space.settings[name]:g}" for name, words in settings.items() if name in space.settings]
        shape = f"{rows}×{columns} cells of {space.channels} channels"
        cards.append(
            tag(
                "div",
                tag("h3", latent_sections.chip(space)),
                tag("p", shape),
                tag("p", ", ".join(known) or "training settings unknown", class_="quiet"),
                class_="card",
            )
        )
    return tag("div", *cards, class_="cards")


_ABOUT_NUMBERS = (
    "Everything that was measured, with 95\u202f% bootstrap intervals over photos below means. ↑ higher is better, ↓ "
    "lower is better, as far as a direction is known."
)
