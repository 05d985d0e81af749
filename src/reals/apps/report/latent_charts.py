"""Charts of latent spaces: dots with intervals, class maps, spectra, channels, and curves over the KL weight."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reals.apps.report import formatting
from reals.apps.report.charts import Scale
from reals.apps.report.formatting import Kind
from reals.apps.report.latent_inputs import Analysis, SpaceResult
from reals.apps.report.markup import Html, join, tag

_CLASS_COLOURS = (
    "#d1495b", "#2e86ab", "#3a9d5d", "#e08e2b", "#7b52ab", "#13a89e", "#a0522d", "#d16ba5", "#7f8c1f", "#5b6b8c",
)  # fmt: skip
_GRADE = 3.0


def chip(space: SpaceResult, words: str = "") -> Html:
    """Return a space's name beside a dot of its colour."""
    return tag("span", tag("i", style=f"--arm:{space.colour}"), f"{space.name} {words}".rstrip(), class_="chip")


def legend(analysis: Analysis, *more: object) -> Html:
    """Return the colours of all spaces."""
    return tag("p", *(chip(space) for space in analysis.spaces), *more, class_="legend")


@dataclass(frozen=True)
class DotRow:
    """One line of :func:`dots`: a number of every space, and perhaps one to hold it against."""

    label: str
    name: str
    against: str | None = None


def dots(analysis: Analysis, rows: Sequence[DotRow], kind: Kind = "plain") -> Html:
    """Return a line per number: a dot with its interval for every space, a stroke for what it is held against."""
    drawn = [row for row in rows if any(space.value(row.name) is not None for space in analysis.spaces)]
    values = [end for row in drawn for space in analysis.spaces for end in _ends(space, row)]
    scale = Scale.around(values, 0.1)
    ticks = formatting.nice_ticks(scale.low, scale.high)
    lines = [_dot_row(analysis, row, kind, scale, ticks) for row in drawn]
    labels = [
        tag("span", f"{tick:g}".replace("-", "−"), style=f"left:{scale.at(tick)}", class_="tick") for tick in ticks
    ]
    axis = tag("div", tag("div"), tag("div", *labels, class_="axis"), tag("div"), class_="row axis-row")
    return tag("div", *lines, axis, class_="ladder")


def _ends(space: SpaceResult, row: DotRow) -> list[float]:
    against = None if row.against is None else space.value(row.against)
    ends = [*(space.interval(row.name) or ()), space.value(row.name), against]
    return [end for end in ends if end is not None]


def _dot_row(analysis: Analysis, row: DotRow, kind: Kind, scale: Scale, ticks: Sequence[float]) -> Html:
    marks = [tag("line", x1=scale.at(t), x2=scale.at(t), y1=0, y2="100%", class_="grid") for t in ticks]
    marks.append(tag("line", x1=scale.at(0), x2=scale.at(0), y1=0, y2="100%", class_="zero"))
    written = []
    for number, space in enumerate(analysis.spaces, start=1):
        value, interval = space.value(row.name), space.interval(row.name)
        if value is None:
            continue
        y, style = f"{100 * number / (len(analysis.spaces) + 1):.1f}%", f"--arm:{space.colour}"
        if interval is not None:
            ends = {"x1": scale.at(interval[0]), "x2": scale.at(interval[1])}
            marks.append(tag("line", y1=y, y2=y, class_="span", style=style, **ends))
        marks.append(tag("circle", tag("title", space.name), cx=scale.at(value), cy=y, r=5, class_="dot", style=style))
        against = None if row.against is None else space.value(row.against)
        if against is not None:
            stroke = tag("line", y1=-6, y2=6, x1=0, x2=0, class_="against", style=style)
            marks.append(tag("svg", stroke, x=scale.at(against), y=y, overflow="visible"))
        written.append(tag("span", formatting.quantity(value, kind), style=f"color:{space.colour}"))
    height = f"min-height:{max(28, 14 * (len(analysis.spaces) + 1))}px"
    plot = tag("svg", *marks, width="100%", height="100%", aria_hidden="true")
    return tag(
        "div",
        tag("div", row.label, class_="row-label"),
        tag("div", plot, class_="plot", style=height),
        tag("div", join(written, "  "), class_="row-value"),
        class_="row",
    )


def class_map(space: SpaceResult, labels: Sequence[str]) -> Html:
    """Return the t-SNE map of a space, one colour per class."""
    points = space.curves.get("map")
    if not points:
        reason = space.not_measured.get("map", "was not drawn")
        return tag("figure", tag("figcaption", chip(space)), tag("p", f"No map: it {reason}.", class_="absent"))
    names = list(dict.fromkeys(labels))
    across, down = zip(*points, strict=True)
    size = max(max(across) - min(across), max(down) - min(down)) or 1.0
    # One scale for both axes, the drawing in the middle.
    left, top = (max(values) + min(values) - size for values in (across, down))
    marks = [
        tag(
            "circle",
            cx=f"{8 + 304 * (x - left / 2) / size:.1f}",
            cy=f"{8 + 304 * (y - top / 2) / size:.1f}",
            r=2.6,
            fill=class_colour(names.index(label)),
        )
        for (x, y), label in zip(points, labels, strict=True)
    ]
    drawing = tag(
        "svg", *marks, viewBox="0 0 320 320", role="img", aria_label=f"t-SNE map of {space.name}", class_="map"
    )
    return tag("figure", tag("figcaption", chip(space)), drawing)


def class_colour(number: int) -> str:
    """Return the colour of a class on the map."""
    return _CLASS_COLOURS[number % len(_CLASS_COLOURS)]


def class_legend(labels: Sequence[str]) -> Html:
    """Return the colours of the classes."""
    names = dict.fromkeys(labels)
    chips = (
        tag("span", tag("i", style=f"--arm:{class_colour(number)}"), name, class_="chip")
        for number, name in enumerate(names)
    )
    return tag("p", *chips, class_="legend")


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    sizes: Sequence[float] = ()
    """Radii of dots at the points; none if empty."""


def line_chart(title: object, lines: Sequence[Line], x_ticks: Sequence[float], words: str, log_y: bool = True) -> Html:
    """Return lines over a logarithmic x axis."""
    known = [point for line in lines for point in line.points]
    place, y_ticks = _places(known, log_y)
    grid = []
    for tick in y_ticks:
        _, y = place(known[0][0], tick)
        grid += [tag("line", x1=46, x2=350, y1=y, y2=y, class_="grid")]
        grid += [tag("text", formatting.number(tick, 2), x=42, y=y + 3.5, text_anchor="end")]
    for tick in x_ticks:
        x, _ = place(tick, known[0][1])
        grid.append(tag("text", f"{tick:.2g}", x=f"{x:.1f}", y=194, text_anchor="middle"))
    drawn = []
    for line in lines:
        spots = [place(x, y) for x, y in line.points]
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        dash = "5 4" if line.dashed else None
        style = f"--arm:{line.colour}"
        drawn.append(tag("polyline", points=coordinates, class_="smooth", style=style, stroke_dasharray=dash))
        drawn += [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", class_="dot", style=style)
            for (x, y), radius in zip(spots, line.sizes or [0.0] * len(spots), strict=True)
            if radius > 0
        ]
    picture = tag("svg", *grid, *drawn, viewBox="0 0 360 200", role="img", aria_label=words)
    return tag("figure", tag("figcaption", title), picture, class_="curve")


def _places(
    points: Sequence[tuple[float, float]], log_y: bool
) -> tuple[Callable[[float, float], tuple[float, float]], list[float]]:
    """Return where points go, and the values at which the y axis is marked."""
    xs, ys = [math.log(x) for x, _ in points], [math.log10(y) if log_y else y for _, y in points]
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    margin = 0.06 * (max(ys) - min(ys)) or 0.1
    low, high = min(ys) - margin, max(ys) + margin

    def place(x: float, y: float) -> tuple[float, float]:
        share = ((math.log10(y) if log_y else y) - low) / (high - low)
        return 52 + 290 * (math.log(x) - left) / (right - left), 176 - 166 * share

    if not log_y:
        return place, formatting.nice_ticks(low, high, 4)
    factors = (
        (1.0,) if high - low > 2.0 else (1.0, 2.0, 5.0) if high - low > 0.3 else tuple(1 + 0.25 * i for i in range(36))
    )
    powers = range(math.floor(low), math.ceil(high) + 1)
    return place, [f * 10.0**power for power in powers for f in factors if low <= math.log10(f * 10.0**power) <= high]


def spectra(analysis: Analysis, which: str, title: str) -> Html:
    """Return the power of every space by frequency, each divided by its own mean power, beside white noise."""
    lines, ticks = [], set()
    for space in analysis.spaces:
        curve = space.curves["spectrum"]
        power = curve[which]
        level = sum(power) / len(power)
        points = [(x, y / level) for x, y in zip(curve["frequencies"], power, strict=True)]
        lines.append(Line(points, space.colour))
        ticks |= {round(curve["frequencies"][0], 3), 0.25, 0.5}
    first = min(line.points[0][0] for line in lines)
    last = max(line.points[-1][0] for line in lines)
    lines.append(Line([(first, 1.0), (last, 1.0)], "var(--quiet)", dashed=True))
    shown = sorted(tick for tick in ticks if first <= tick <= last)
    return line_chart(title, lines, shown, f"{title} by spatial frequency")


def channels(space: SpaceResult) -> Html:
    """Return the KL of every channel as bars, largest first; dead ones hollow."""
    found = space.curves["channels"]
    order = sorted(range(len(found["kl"])), key=lambda i: -found["kl"][i]["value"])
    largest = max(entry["value"] for entry in found["kl"]) or 1.0
    width = 340 / len(order)
    bars = []
    for place, i in enumerate(order):
        height = max(110 * found["kl"][i]["value"] / largest, 1.0)
        words = f"channel {i}: {found['kl'][i]['value']:.1f} nats" + (", dead" if found["dead"][i] else "")
        bars.append(
            tag(
                "rect",
                tag("title", words),
                x=f"{10 + place * width:.1f}",
                y=f"{120 - height:.1f}",
                width=f"{max(width - 3, 1):.1f}",
                height=f"{height:.1f}",
                class_="bar dead" if found["dead"][i] else "bar",
                style=f"--arm:{space.colour}",
            )
        )
    dead = sum(found["dead"])
    note = f"{len(order)} channels, {dead} dead; highest {formatting.number(largest)} nats per image"
    caption = tag("figcaption", chip(space), tag("span", note, class_="note"))
    label = f"KL per channel of {space.name}"
    return tag(
        "figure", caption, tag("svg", *bars, viewBox="0 0 360 124", role="img", aria_label=label), class_="curve"
    )


def sweep(analysis: Analysis, measures: Iterable[tuple[str, str, Kind]]) -> Html | None:
    """Return chosen numbers against the KL weight, a line for each λ_a; None for fewer than two weights above zero."""
    families: dict[float, list[SpaceResult]] = {}
    for space in analysis.spaces:
        if space.settings.get("kl", 0.0) > 0.0:
            families.setdefault(space.settings.get("align", 0.0), []).append(space)
    families = {align: sorted(found, key=_kl) for align, found in families.items() if len(set(map(_kl, found))) > 1}
    if not families:
        return None
    largest = max(space.value("latents/std") or 1.0 for found in families.values() for space in found)
    charts = []
    for name, title, _ in measures:
        lines = []
        for number, found in enumerate(families.values()):
            known = [space for space in found if space.value(name) is not None]
            points = [(_kl(space), space.value(name) or 0.0) for space in known]
            sizes = [2.5 + _GRADE * (space.value("latents/std") or 0.0) / largest for space in known]
            if points:
                lines.append(Line(points, class_colour(number), sizes=sizes))
        if lines:
            ticks = sorted({x for line in lines for x, _ in line.points})
            charts.append(line_chart(title, lines, ticks, f"{title} by KL weight", log_y=False))
    names = (
        tag("span", tag("i", style=f"--arm:{class_colour(number)}"), f"λₐ = {align:g}", class_="chip")
        for number, align in enumerate(families)
    )
    return join([tag("p", *names, class_="legend"), tag("div", *charts, class_="curves")])


def _kl(space: SpaceResult) -> float:
    return space.settings["kl"]
