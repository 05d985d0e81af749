"""Charts of intervals and distances: HTML rows with inline SVG whose horizontal positions are percentages.

Percentages let the drawing stretch with the page while its text, being HTML, keeps its size on a phone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reals.apps.report import formatting
from reals.apps.report.catalogue import THEMES, Metric, describe, guidance_words, sort_key
from reals.apps.report.inputs import ALIGNED, BASELINE, Change, Run, State
from reals.apps.report.markup import Html, join, tag
from reals.apps.report.verdict import interval_words, size_words

STATE_WORDS: dict[State, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "not distinguishable",
    "moved": "changed",
    "unknown": "no interval",
}


def marker(x: str, state: State, title: str, y: str | int = "50%") -> Html:
    """Return a mark whose shape tells the state without colour: up, down, hollow circle, diamond, cross."""
    shapes: dict[State, Html] = {
        "better": tag("polygon", points="0,-7 7,6 -7,6"),
        "worse": tag("polygon", points="0,7 7,-6 -7,-6"),
        "unclear": tag("circle", r=5.5),
        "moved": tag("polygon", points="0,-7 7,0 0,7 -7,0"),
        "unknown": tag("path", d="M-5,-5L5,5M5,-5L-5,5"),
    }
    mark = tag("g", tag("title", title), shapes[state])
    return tag("svg", mark, x=x, y=y, overflow="visible", class_=f"mark {state}")


def glyph(state: State) -> Html:
    """Return the mark as a small picture inside text."""
    mark = marker("9", state, STATE_WORDS[state], y=9)
    return tag("svg", mark, width=18, height=18, viewBox="0 0 18 18", class_="glyph", aria_hidden="true")


@dataclass(frozen=True)
class Scale:
    """Maps values onto percentages of the plot's width."""

    low: float
    high: float

    @staticmethod
    def around(values: Iterable[float], smallest_span: float) -> "Scale":
        """Return a scale that shows every value and zero, with a margin; small changes must look small."""
        known = [*values, 0.0]
        lack = max(smallest_span - (max(known) - min(known)), 0.0) / 2
        low, high = min(known) - lack, max(known) + lack
        margin = 0.06 * (high - low)
        # Zero keeps away from the edges, so that the words at both ends of the axis have their side.
        return Scale(min(low - margin, -2 * margin), max(high + margin, 2 * margin))

    def at(self, value: float) -> str:
        """Return where ``value`` lies."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def _plot(scale: Scale, ticks: Sequence[float], *marks: Html) -> Html:
    grid = [tag("line", x1=scale.at(t), x2=scale.at(t), y1=0, y2="100%", class_="grid") for t in ticks]
    zero = tag("line", x1=scale.at(0), x2=scale.at(0), y1=0, y2="100%", class_="zero")
    return tag("div", tag("svg", *grid, zero, *marks, width="100%", height="100%", aria_hidden="true"), class_="plot")


def _axis(scale: Scale, ticks: Sequence[float], write: Callable[[float], str], left: str, right: str) -> Html:
    labels = [tag("span", write(t), style=f"left:{scale.at(t)}", class_="tick") for t in ticks]
    ends = tag("div", tag("span", left), tag("span", right), class_="ends")
    return tag("div", tag("div"), tag("div", *labels, ends, class_="axis"), tag("div"), class_="row axis-row")


def _row(label: Html, plot: Html, value: Html) -> Html:
    return tag("div", tag("div", label, class_="row-label"), plot, tag("div", value, class_="row-value"), class_="row")


def network_badge(run: Run, network: str | None) -> Html | None:
    """Return a network's name, marked where alignment was trained on it."""
    if network is None:
        return None
    if run.seen_by_alignment(network):
        title = "Alignment was trained on this network’s features, so it favours the aligned arm"
        return tag("span", network, " · seen", tag("span", " by alignment"), class_="badge seen", title=title)
    return tag("span", network, class_="badge")


def forest(run: Run) -> Html:
    """Return every comparison with its interval, right being better where a direction is, by theme and unit."""
    panels: dict[tuple[str, str, bool], list[tuple[Metric, Change]]] = {}
    described = sorted(((describe(name), change) for name, change in run.changes.items()), key=lambda x: sort_key(x[0]))
    for metric, change in described:
        if change.value is not None:
            unit = "relative" if change.is_relative else metric.kind
            panels.setdefault((metric.theme, unit, change.better is not None), []).append((metric, change))
    return join(
        _panel(run, theme, unit, directed, panels[theme, unit, directed])
        for theme in THEMES
        for (of, unit, directed) in panels
        if of == theme
    )


def _panel(run: Run, theme: str, unit: str, directed: bool, rows: list[tuple[Metric, Change]]) -> Html:
    shown = [value * _sign(change) for _, change in rows for value in _drawn(change)]
    smallest = 0.2 if unit == "relative" else {"share": 0.1, "decibel": 1.0}.get(unit, 0.0)
    scale = Scale.around(shown, smallest or max(map(abs, shown), default=0.0) or 1.0)
    ticks = formatting.nice_ticks(scale.low, scale.high)
    if directed:
        write, ends = (lambda tick: _tick(abs(tick), unit)), ("◂ worse", "better ▸")
    else:
        write, ends = (lambda tick: _tick(tick, unit)), ("◂ less", "more ▸")
    lines: list[Html] = []
    last: float | None = None
    for metric, change in rows:
        if metric.guidance is not None and metric.guidance != last:
            lines.append(tag("h4", guidance_words(metric.guidance).capitalize()))
            last = metric.guidance
        lines.append(_forest_row(run, metric, change, scale, ticks))
    title = next(words for key, (words, _) in THEMES.items() if key == theme)
    about = [
        {"relative": "relative change", "share": "change in percentage points", "decibel": "change in dB"}.get(
            unit, "absolute change"
        ),
        None if directed else "neither direction is better by itself",
    ]
    note = tag("small", " · ".join(part for part in about if part))
    axis = _axis(scale, ticks, write, *ends)
    return tag("div", tag("h3", title, " ", note), axis, *lines, class_="forest")


def _tick(value: float, unit: str) -> str:
    if unit == "relative":
        return f"{100 * value:g}\u202f%".replace("-", "−") if value else "0"
    return f"{100 * value if unit == 'share' else value:g}".replace("-", "−")


def _sign(change: Change) -> int:
    return -1 if change.better == "lower" else 1


def _drawn(change: Change) -> list[float]:
    return [*([] if change.value is None else [change.value]), *(change.interval or ())]


def _forest_row(run: Run, metric: Metric, change: Change, scale: Scale, ticks: Sequence[float]) -> Html:
    sign, state = _sign(change), change.state
    title = f"{metric.label}: {size_words(change)}, 95\u202f% interval {interval_words(change)}: {STATE_WORDS[state]}"
    marks = []
    if change.interval is not None:
        low, high = (scale.at(sign * end) for end in change.interval)
        bar = tag("line", tag("title", title), x1=low, x2=high, y1="50%", y2="50%", class_=f"interval {state}")
        marks.append(bar)
    marks.append(marker(scale.at(sign * (change.value or 0.0)), state, title))
    label = tag("span", metric.label, " ", network_badge(run, metric.network))
    value = tag("span", tag("b", size_words(change)), " ", tag("small", interval_words(change)), class_=state)
    return _row(label, _plot(scale, ticks, *marks), value)


def ladders(run: Run) -> Html:
    """Return, per feature network, how far samples, reconstructions and fresh real photos lie from the reference."""
    found: dict[str, list[Metric]] = {}
    for name in dict.fromkeys(name for values in run.arms.values() for name in values):
        metric = describe(name)
        if metric.network is not None and name.endswith(f"/fd/{metric.network}"):
            found.setdefault(metric.network, []).append(metric)
    order = sorted(found, key=lambda network: (run.seen_by_alignment(network) is True, network))
    return join(_ladder(run, network, found[network]) for network in order)


def _ladder(run: Run, network: str, metrics: list[Metric]) -> Html:
    themes = ("samples", "reconstruction", "real")
    metrics = sorted(metrics, key=lambda metric: (themes.index(metric.theme), metric.guidance or 0.0))
    values = [value for m in metrics for arm in run.arms if (value := run.value(arm, m.name)) is not None]
    scale = Scale(-0.03 * max(values), 1.06 * max(values) or 1.0)
    ticks = formatting.nice_ticks(0.0, scale.high)
    rows = [_ladder_row(run, metric, scale, ticks) for metric in metrics]
    axis = _axis(scale, ticks, lambda tick: f"{tick:g}", "", "")
    return tag("div", tag("h3", "In the features of ", network_badge(run, network)), *rows, axis, class_="ladder")


def _ladder_row(run: Run, metric: Metric, scale: Scale, ticks: Sequence[float]) -> Html:
    values = {arm: run.value(arm, metric.name) for arm in run.arms}
    known = {arm: value for arm, value in values.items() if value is not None}
    marks: list[Html] = []
    if metric.theme == "real":
        label, value = "Held-out real photos", next(iter(known.values()))
        diamond = marker(scale.at(value), "moved", f"real photos: {formatting.quantity(value, 'distance')}")
        return _row(Html(label), _plot(scale, ticks, diamond), tag("span", formatting.quantity(value, "distance")))
    label = "Reconstructions" if metric.theme == "reconstruction" else f"Samples {guidance_words(metric.guidance or 1)}"
    if BASELINE in known and ALIGNED in known:
        ends = {"x1": scale.at(known[BASELINE]), "x2": scale.at(known[ALIGNED])}
        marks.append(tag("line", y1="50%", y2="50%", class_="link", **ends))
    for arm, value in known.items():
        title = tag("title", f"{arm}: {formatting.quantity(value, 'distance')}")
        marks.append(tag("circle", title, cx=scale.at(value), cy="50%", r=6, class_=f"dot {arm_class(arm)}"))
    written = " → ".join(formatting.quantity(value, "distance") for value in known.values())
    return _row(Html(label), _plot(scale, ticks, *marks), tag("span", written))


def arm_class(arm: str) -> str:
    """Return the style class of an arm's colour."""
    return f"arm-{arm}" if arm in (BASELINE, ALIGNED) else "arm-other"


def arm_chip(arm: str, words: str = "") -> Html:
    """Return an arm's name, and what of it, beside a dot of its colour."""
    return tag("span", tag("i", class_=arm_class(arm)), f"{arm} {words}".rstrip(), class_="chip")
