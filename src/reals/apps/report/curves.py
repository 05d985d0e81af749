"""Training curves: one small chart per quantity, both arms in each, raw lines faint behind smoothed ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reals.apps.report import formatting
from reals.apps.report.charts import arm_chip, arm_class
from reals.apps.report.inputs import Log, Run, read_log
from reals.apps.report.markup import Html, join, tag

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 200, 46, 10, 10, 24
_POINTS = 400
"""Points per line at most; more cannot be told apart and make the page heavy."""

_FIRST = ("loss", "mse", "perceptual", "lpips", "kl", "align", "align_patch", "align_cls", "align_global")
_NOT_LOSSES = {"seconds", "lr", "learning_rate", "epoch", "images_per_second", "steps_per_second"}
_SHOWN = 6

STAGES = {
    "autoencoder-training": ("Stage 1: autoencoder", "The aligned arm’s loss includes the alignment term."),
    "generator-training": ("Stage 2: diffusion model", "Losses in different latent spaces are not comparable."),
}

Series = tuple[list[float], list[float]]
Place = Callable[[float, float], tuple[float, float]]


def training(run: Run) -> Html:
    """Return the curves of both stages."""
    blocks = [_block("Shared start: autoencoder", "", {"base": log})] if (log := _log(run, "base-training")) else []
    for folder, (title, note) in STAGES.items():
        logs = {arm: _log(run, arm, folder) for arm in run.arms}
        blocks.append(_block(title, note, {arm: log for arm, log in logs.items() if log is not None}))
        missing = [f"{arm}/{folder}/log.jsonl" for arm, log in logs.items() if log is None]
        if missing:
            names = join((tag("code", name) for name in missing), ", ")
            blocks.append(tag("p", "Not in the run’s directory: ", names, ".", class_="absent"))
    return join(blocks)


def _log(run: Run, *parts: str) -> Log | None:
    return read_log(Path(run.directory, *parts, "log.jsonl"))


def _block(title: str, note: str, logs: Mapping[str, Log]) -> Html:
    if not logs:
        return tag("h3", title)
    names = list(dict.fromkeys(name for log in logs.values() for name in log.series if name not in _NOT_LOSSES))
    names.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    charts = [
        _chart(name, {arm: log.series[name] for arm, log in logs.items() if name in log.series}) for name in names
    ]
    legend = tag("p", *(arm_chip(arm) for arm in logs), " smoothed; faint: as logged. ", note, class_="legend")
    more = None
    if len(charts) > _SHOWN:
        rest = tag("div", *charts[_SHOWN:], class_="curves")
        more = tag("details", tag("summary", f"{len(charts) - _SHOWN} more curves"), rest)
    bad = sum(log.unreadable for log in logs.values())
    warning = tag("p", f"{bad} lines of the logs could not be read and are left out.", class_="absent") if bad else None
    return join([tag("h3", title), legend, tag("div", *charts[:_SHOWN], class_="curves"), more, warning])


def _chart(name: str, lines: Mapping[str, Series]) -> Html:
    smooth = {arm: (steps, smoothed(values)) for arm, (steps, values) in lines.items()}
    low, high, logarithmic = _limits(
        [values for _, values in smooth.values()], [values for _, values in lines.values()]
    )
    first = 0.0
    last = max(max(steps[-1] for steps, _ in lines.values()), first + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        clipped = min(max(value, low), high)
        share = math.log(clipped / low) / math.log(high / low) if logarithmic else (clipped - low) / (high - low)
        x = _LEFT + (step - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def line(arm: str, series: Series, kind: str) -> Html:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in thinned(*series)))
        return tag("polyline", points=points, class_=f"{kind} {arm_class(arm)}")

    drawn = [line(arm, series, "raw") for arm, series in lines.items()]
    drawn += [line(arm, series, "smooth") for arm, series in smooth.items()]
    grid = _grid(_value_ticks(low, high, logarithmic), formatting.nice_ticks(first, last, 4), place, low)
    ends = join(
        (tag("span", formatting.number(values[-1]), class_=arm_class(arm)) for arm, (_, values) in smooth.items()), " "
    )
    label = f"{name} by training step"
    picture = tag("svg", *grid, *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
    scale = tag("small", " log scale") if logarithmic else None
    caption = tag("figcaption", tag("b", name.replace("_", " ")), scale, tag("span", ends, class_="last"))
    return tag("figure", caption, picture, class_="curve")


def _grid(values: Sequence[float], steps: Sequence[float], place: Place, bottom: float) -> list[Html]:
    drawn = []
    for value in values:
        y = place(0.0, value)[1]
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        drawn.append(tag("text", f"{value:g}".replace("-", "−"), x=_LEFT - 6, y=f"{y + 3.5:.1f}", text_anchor="end"))
    for step in steps:
        x = place(step, bottom)[0]
        written = f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"
        drawn.append(tag("text", written, x=f"{x:.1f}", y=_HEIGHT - 6, text_anchor="middle"))
    return drawn


def smoothed(values: Sequence[float]) -> list[float]:
    """Return a centred moving average over a fifteenth of the line; centred, so that it does not lag."""
    reach = len(values) // 30
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    ends = [(max(i - reach, 0), min(i + reach + 1, len(values))) for i in range(len(values))]
    return [(total[stop] - total[start]) / (stop - start) for start, stop in ends]


def thinned(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return at most about :data:`_POINTS` evenly spaced points, always with the last."""
    every = max(math.ceil(len(steps) / _POINTS), 1)
    points = list(zip(steps, values, strict=True))
    return points[::every] if (len(points) - 1) % every == 0 else [*points[::every], points[-1]]


def _limits(smooth: Sequence[Sequence[float]], raw: Sequence[Sequence[float]]) -> tuple[float, float, bool]:
    """Return the range that is shown: all of the smoothed lines, and the raw ones without their rarest 2 %."""
    every = sorted(value for values in raw for value in values)
    inner = [every[len(every) // 100], every[-1 - len(every) // 100]]
    shown = [*inner, *(value for values in smooth for value in values)]
    low, high = min(shown), max(shown)
    if low > 0 and high / low > 20:
        return low / 1.15, high * 1.15, True
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin, False


def _value_ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    if not logarithmic:
        return formatting.nice_ticks(low, high, 4)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 200 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
