"""The tables: every metric, every stage's time, every setting."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from reals.apps.report import formatting
from reals.apps.report.catalogue import THEMES, Metric, Theme, describe, guidance_words, sort_key
from reals.apps.report.charts import STATE_WORDS, arm_chip, glyph, network_badge
from reals.apps.report.inputs import ALIGNED, BASELINE, Change, Run
from reals.apps.report.markup import Html, join, tag
from reals.apps.report.verdict import interval_words, size_words


def _cell(label: str, *children: object, class_: str | None = None) -> Html:
    return tag("td", *children, data_label=label, class_=class_)


def _table(heads: Iterable[object], *bodies: Html, class_: str) -> Html:
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in heads)))
    return tag("table", head, *bodies, class_=class_)


def metrics(run: Run) -> Html:
    """Return every metric with its arms, change and interval, by theme."""
    names = dict.fromkeys([*(name for values in run.arms.values() for name in values), *run.changes])
    described = sorted((describe(name) for name in names), key=sort_key)
    heads = ["Metric", *(arm_chip(arm) for arm in _arms(run))]
    heads += ["Change", "95\u202f% interval", "Reading"] if run.compared else []
    bodies = []
    for theme, (title, about) in THEMES.items():
        inside = [metric for metric in described if metric.theme == theme]
        if inside:
            bodies.append(_theme(run, theme, title, about, inside, len(heads)))
    return _table(heads, *bodies, class_="metrics")


def _arms(run: Run) -> list[str]:
    named = [BASELINE, ALIGNED] if run.compared else []
    return [*named, *(arm for arm in run.arms if arm not in named)]


def _theme(run: Run, theme: Theme, title: str, about: str, metrics: list[Metric], columns: int) -> Html:
    head = tag("th", title, tag("small", about), colspan=columns, scope="rowgroup")
    rows = [tag("tr", head, class_="theme")]
    last: float | None = None
    for metric in metrics:
        if metric.guidance is not None and metric.guidance != last:
            words = guidance_words(metric.guidance).capitalize()
            rows.append(tag("tr", tag("th", words, colspan=columns, scope="rowgroup"), class_="guidance"))
            last = metric.guidance
        rows.append(_metric_row(run, metric))
    return tag("tbody", *rows, class_=theme)


def _metric_row(run: Run, metric: Metric) -> Html:
    change = run.changes.get(metric.name)
    better = metric.better if change is None else change.better
    arrow = {"higher": "↑", "lower": "↓"}.get(better or "")
    direction = None if arrow is None else tag("span", arrow, title=f"{better} is better", class_="direction")
    name = tag("code", metric.label) if metric.theme == "other" else tag("b", metric.label)
    about = tag("small", metric.meaning)
    cells = [
        tag("th", name, " ", direction, " ", network_badge(run, metric.network), about, scope="row", title=metric.name)
    ]
    for arm in _arms(run):
        value = run.value(arm, metric.name)
        if value is None and change is not None:
            value = {BASELINE: change.baseline, ALIGNED: change.aligned}.get(arm)
        cells.append(_cell(arm, formatting.quantity(value, metric.kind), class_="number"))
    if run.compared:
        cells += _change_cells(change)
    return tag("tr", *cells)


def _change_cells(change: Change | None) -> list[Html]:
    if change is None:
        return [_cell(label, "–", class_="number none") for label in ("change", "95\u202f% interval", "reading")]
    reading = join([glyph(change.state), STATE_WORDS[change.state]])
    return [
        _cell("change", size_words(change) or "–", class_="number"),
        _cell("95\u202f% interval", interval_words(change), class_="number"),
        _cell("reading", reading, class_=f"reading {change.state}"),
    ]


def speed(run: Run) -> Html:
    """Return how long every stage took in every arm, and how many images a second that was."""
    stages = list(dict.fromkeys(stage for arm in run.speed.values() for stage in arm))
    arms = [arm for arm in [BASELINE, ALIGNED] if arm in run.speed]
    arms += [arm for arm in run.speed if arm not in arms]
    rows = []
    for stage in stages:
        cells = [tag("th", tag("b", stage.replace("_", " ").replace("-", " ")), scope="row")]
        for arm in arms:
            found = run.speed[arm].get(stage, {})
            seconds, rate = found.get("seconds"), found.get("images_per_second")
            cells.append(
                _cell(f"{arm}, time", "–" if seconds is None else formatting.duration(seconds), class_="number")
            )
            cells.append(_cell(f"{arm}, images/s", formatting.number(rate), class_="number"))
        rows.append(tag("tr", *cells))
    totals = [sum(stage.get("seconds") or 0.0 for stage in run.speed[arm].values()) for arm in arms]
    cells = [part for arm, total in zip(arms, totals, strict=True) for part in _total_cells(arm, total)]
    rows.append(tag("tr", tag("th", tag("b", "all stages"), scope="row"), *cells, class_="total"))
    heads = ["Stage"]
    for arm in arms:
        heads += [arm_chip(arm, "time"), "images/s"]
    return _table(heads, tag("tbody", *rows), class_="speed")


def _total_cells(arm: str, seconds: float) -> list[Html]:
    return [
        _cell(f"{arm}, time", formatting.duration(seconds), class_="number"),
        _cell(f"{arm}, images/s", "", class_="number none"),
    ]


def protocol(values: Mapping[str, Any]) -> Html:
    """Return the settings that a number depends on, as cards, and the whole recipe as JSON."""
    cards = [_card(str(name), value) for name, value in values.items() if name != "recipe"]
    recipe = values.get("recipe")
    whole = None
    if recipe is not None:
        code = tag("pre", json.dumps(recipe, indent=2, ensure_ascii=False), class_="recipe")
        whole = tag("details", tag("summary", "The whole recipe: every setting, as JSON"), code)
    return join([tag("div", *cards, class_="cards protocol"), whole])


def _card(name: str, value: object) -> Html:
    return tag("div", tag("h3", _words(name)), _settings(value), class_="card")


def _settings(value: object) -> Html:
    if not isinstance(value, Mapping):
        return tag("p", _written(value))
    pairs = []
    for key, item in value.items():
        nested = isinstance(item, Mapping)
        body = _settings(item) if nested else _written(item)
        pairs.append(tag("div", tag("dt", _words(str(key))), tag("dd", body), class_="nested" if nested else None))
    return tag("dl", *pairs)


def _words(name: str) -> str:
    written = name.replace("_", " ")
    return written[:1].upper() + written[1:]


def _written(value: object) -> Html:
    if value is None:
        return Html("–")
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    if isinstance(value, float):
        return Html(f"{value:g}")
    if isinstance(value, int):
        return Html(f"{value:,}".replace(",", "\u202f"))
    if isinstance(value, list | tuple):
        if any(isinstance(item, list | tuple | Mapping) for item in value):
            return tag("code", json.dumps(value, ensure_ascii=False))
        return join((_written(item) for item in value), ", ")
    written = str(value)
    if len(written) >= 32 and all(character in "0123456789abcdef" for character in written):
        return tag("code", f"{written[:12]}…", title=written)
    return join([written])
