"""The sections of the page, in reading order."""

import shlex
from dataclasses import dataclass
from pathlib import PurePath

from reals.apps.report import charts, curves, formatting, tables
from reals.apps.report.catalogue import describe, guidance_scale, guidance_words
from reals.apps.report.charts import arm_chip, glyph, network_badge
from reals.apps.report.inputs import Change, Run, State
from reals.apps.report.latent_page import latent_space_section
from reals.apps.report.markup import Html, join, tag
from reals.apps.report.pictures import picture
from reals.apps.report.verdict import (
    Evidence,
    Verdict,
    confidence,
    interval_words,
    join_words,
    price,
    size_words,
    values_words,
)

_PILLS = {
    "helped": "▲ Helped",
    "hurt": "▼ Hurt",
    "mixed": "◆ Mixed",
    "unclear": "○ Not distinguishable",
    "single": "One arm",
    "none": "No verdict",
}


@dataclass(frozen=True)
class Section:
    """A part of the page that the navigation can point to."""

    anchor: str
    title: str
    html: Html


def build(run: Run, verdict: Verdict) -> list[Section]:
    """Return the sections below the verdict."""
    made = [
        _section("samples", "Samples", _about_samples(run), _samples(run)),
        _section("reconstructions", "Reconstructions", _ABOUT_RECONSTRUCTIONS, _reconstructions(run)),
        _section("distances", "Distances", _ABOUT_LADDER, _distances_of(run)),
    ]
    if run.compared:
        made.append(_section("changes", "Changes", _ABOUT_FOREST, tag("div", _key(), charts.forest(run))))
    latents = latent_space_section(run.directory)
    if latents is not None:
        made.append(_section("latent-space", "Latent space", _ABOUT_LATENTS, latents))
    speed = tables.speed(run) if run.speed else _absent("No times in metrics.json.")
    protocol = tables.protocol(run.protocol) if run.protocol else _absent("No protocol in metrics.json.")
    return [
        *made,
        _section(
            "numbers",
            "Numbers",
            _ABOUT_NUMBERS,
            tables.metrics(run),
        ),
        _section("training", "Training", "", curves.training(run)),
        _section("speed", "Speed", "Wall-clock time of each stage.", speed),
        _section("protocol", "Protocol", "What every number above depends on.", protocol),
        _section("reproduce", "Reproduce", "", _reproduce(run)),
    ]


def _section(anchor: str, title: str, about: str, content: Html) -> Section:
    lead = tag("p", about, class_="about") if about else None
    return Section(anchor, title, tag("section", tag("h2", title), lead, content, id=anchor))


def _absent(words: str) -> Html:
    return tag("p", words, class_="absent")


# --- the answer


def data_name(run: Run) -> str:
    """Return a short name of the data: the last part of its location."""
    location = str(run.section("data").get("location", ""))
    return PurePath(location).name or location or run.directory.resolve().name


def opening(run: Run, verdict: Verdict) -> Html:
    """Return the top of the page: verdict, price, certainty and key numbers."""
    unfinished = None
    if not run.complete:
        words = "This run is not finished: the page shows what has been measured so far, and the verdict may change."
        unfinished = tag("p", tag("b", "So far. "), words, class_="banner")
    pill = tag("span", _PILLS[verdict.kind], class_="pill")
    return tag(
        "header",
        tag("p", tag("b", "reals"), " · did alignment help on ", tag("b", data_name(run)), "?", class_="eyebrow"),
        unfinished,
        tag("div", pill, tag("h1", verdict.headline), tag("p", verdict.lead, class_="lead"), class_="answer"),
        _answers(run, verdict),
        _cards(run, verdict),
        class_=f"verdict-{verdict.kind}",
    )


def _answers(run: Run, verdict: Verdict) -> Html | None:
    if not run.compared:
        return None
    counted = [_evidence_item(run, item) for item in verdict.evidence]
    size = tag("ul", *counted, class_="evidence") if counted else tag("p", "Nothing that could be counted.")
    biased = _biased(verdict) if verdict.biased else None
    sure = tag("ul", *(tag("li", line) for line in confidence(run, verdict)), class_="plain")
    return tag(
        "div",
        tag("div", tag("h2", "By how much?"), size, biased),
        tag("div", tag("h2", "At what price?"), tag("ul", *(tag("li", line) for line in price(run)), class_="plain")),
        tag("div", tag("h2", "How sure is that?"), sure),
        class_="answers",
    )


def _evidence_item(run: Run, item: Evidence) -> Html:
    where = [tag("b", guidance_words(item.guidance).capitalize()), " ", network_badge(run, item.network)]
    interval = f"95\u202f% interval {interval_words(item.change)}" if item.change.interval else "no interval"
    size = tag("span", size_words(item.change), class_="size")
    lines = [*where, tag("br"), size, tag("span", f"  {interval}"), tag("br"), f"{values_words(item.change)}"]
    return tag("li", glyph(item.state), tag("div", *lines), class_=item.state)


def _biased(verdict: Verdict) -> Html:
    sizes = {network: [] for network in dict.fromkeys(item.network for item in verdict.biased)}
    for item in verdict.biased:
        doubt = ", not distinguishable from 0" if item.state == "unclear" else ""
        sizes[item.network].append(f"{size_words(item.change)} {guidance_words(item.guidance)}{doubt}")
    said = "; ".join(f"{join_words(found)} in {network}" for network, found in sizes.items())
    return tag("p", f"Not counted, because alignment was trained on these features: {said}.", class_="quiet")


def _distances_of(run: Run) -> Html:
    drawn = charts.ladders(run)
    if not drawn:
        return _absent("No Fréchet distances in metrics.json.")
    return join([tag("p", *(arm_chip(arm) for arm in run.arms), class_="legend"), drawn])


def _cards(run: Run, verdict: Verdict) -> Html | None:
    names = [item.change.name for item in verdict.evidence[:3]] or _distances(run)[:2]
    scales = sorted({m.guidance for arm in run.arms.values() for m in map(describe, arm) if m.guidance is not None})
    if scales:
        names += [f"samples/guidance-{scales[-1]:g}/class_agreement/classifier"]
    names += ["reconstruction/psnr", "latents/linear_probe_accuracy_pooled"]
    cards = [card for card in (_card(run, name) for name in names) if card]
    return tag("div", *cards, class_="cards keys") if cards else None


def _distances(run: Run) -> list[str]:
    found = [name for name in next(iter(run.arms.values()), {}) if name.startswith("samples/") and "/fd/" in name]
    return sorted(found, key=lambda name: (run.seen_by_alignment(name.split("/")[-1]) is not False, name))


def _card(run: Run, name: str) -> Html | None:
    metric, change = describe(name), run.changes.get(name)
    where = "" if metric.guidance is None else guidance_words(metric.guidance)
    title = tag("h3", metric.label, tag("small", where))
    if change is not None and change.value is not None:
        return _change_card(title, change)
    values = [(arm, run.value(arm, name)) for arm in run.arms]
    lines = [tag("p", formatting.quantity(v, metric.kind), class_="big") for _, v in values if v is not None]
    return tag("div", title, *lines, tag("p", metric.meaning, class_="quiet"), class_="card") if lines else None


def _change_card(title: Html, change: Change) -> Html:
    kind = describe(change.name).kind
    extra = ""
    if change.is_relative and kind != "distance" and change.difference is not None:
        extra = f" ({formatting.difference(change.difference, kind)})"
    interval = f"95\u202f%: {interval_words(change)}" if change.interval else "no interval"
    big = tag("p", glyph(change.state), size_words(change), class_="big")
    return tag(
        "div",
        title,
        big,
        tag("p", values_words(change), extra),
        tag("p", interval, class_="quiet"),
        class_=f"card {change.state}",
    )


# --- pictures

_ABOUT_RECONSTRUCTIONS = (
    "Held-out photos and what each autoencoder gives back: the quality that the diffusion model cannot exceed."
)


def _about_samples(run: Run) -> str:
    if len(run.arms) < 2:
        return "Generated images."
    return "Generated from the same seeds and class labels: the same place in both grids is the same request."


def _samples(run: Run) -> Html:
    names = {path.stem for arm in run.arms for path in (run.directory / arm / "samples").glob("*.png")}
    measured = {m.guidance for arm in run.arms.values() for m in map(describe, arm) if m.guidance is not None}
    names |= {f"guidance-{scale:g}" for scale in measured}
    if not names:
        return _absent("No sample grids: the run’s directory has no ARM/samples/guidance-*.png.")
    rows = []
    for name in sorted(names, key=lambda name: (guidance_scale(name) is None, guidance_scale(name) or 0.0, name)):
        scale = guidance_scale(name)
        words = name if scale is None else guidance_words(scale)
        grids = [
            picture(run.directory / arm / "samples" / f"{name}.png", run.directory, arm_chip(arm), f"{arm}, {words}")
            for arm in run.arms
        ]
        rows.append(tag("h3", words[:1].upper() + words[1:]))
        rows.append(tag("div", *grids, class_=f"pictures columns-{min(len(grids), 3)}"))
    return join(rows)


def _reconstructions(run: Run) -> Html:
    shown = [
        picture(run.directory / "originals.png", run.directory, tag("span", "originals", class_="chip"), "originals")
    ]
    for arm in run.arms:
        path = run.directory / arm / "reconstructions.png"
        psnr = run.value(arm, "reconstruction/psnr")
        note = None if psnr is None else tag("span", f"PSNR {formatting.quantity(psnr, 'decibel')}", class_="note")
        shown.append(picture(path, run.directory, join([arm_chip(arm), note]), f"reconstructions, {arm}"))
    return tag("div", *shown, class_=f"pictures columns-{min(len(shown), 3)}")


# --- words

_ABOUT_LADDER = (
    "Fréchet distances to the reference photos; left is closer. Samples cannot be expected to pass the reconstructions "
    "of their own autoencoder, nor those to pass fresh real photos. Absolute values of different networks have "
    "different scales."
)

_ABOUT_LATENTS = (
    "What the arms’ latent spaces are worth by themselves, as reals analyze measured them on held-out photos."
)

_SEEN = "“Seen”: alignment was trained on that network’s features, so its numbers favour the aligned arm."

_ABOUT_NUMBERS = f"Everything that was measured. ↑ higher is better, ↓ lower is better. {_SEEN}"

_ABOUT_FOREST = (
    "Aligned against baseline with 95\u202f% intervals. Where one direction is better, right is better, whatever the "
    "sign. Each panel has its own scale."
)


def _key() -> Html:
    words: tuple[tuple[State, str], ...] = (
        ("better", "better"),
        ("worse", "worse"),
        ("unclear", "interval includes zero"),
        ("moved", "changed"),
    )
    chips = tag("p", *(tag("span", glyph(state), text, class_="chip") for state, text in words), class_="legend")
    return join([chips, tag("p", _SEEN, class_="legend")])


def _reproduce(run: Run) -> Html:
    command = run.protocol.get("command")
    if isinstance(command, list):
        command = shlex.join(str(part) for part in command)
    if command:
        return join([tag("p", "This page comes from:"), tag("pre", command, class_="command")])
    location, recipe = run.section("data").get("location"), run.section("recipe").get("name")
    if location is None or recipe is None:
        return _absent("The protocol names no data or no recipe, so no command can be given.")
    parts = ["reals", "run", "--recipe", str(recipe), "--data", str(location), "--out", "NEW_DIRECTORY"]
    if len(run.arms) == 1:
        parts += ["--arms", *run.arms]
    seed = run.section("recipe").get("seed")
    parts += [] if seed is None else ["--seed", str(seed)]
    about = (
        "The same recipe on the same data. If flags changed the preset, give them again: the recipe above has every "
        "value. Another --seed tells how much training itself varies, which no interval on this page covers."
    )
    return join([tag("pre", shlex.join(parts), class_="command"), tag("p", about, class_="about")])
