"""Numbers, scales, curves and names of the report."""

from itertools import pairwise

import pytest

from reals.apps.report import formatting
from reals.apps.report.catalogue import describe, sort_key
from reals.apps.report.charts import Scale
from reals.apps.report.curves import smoothed, thinned
from reals.apps.report.markup import Html, tag
from tests.apps.report_run import metrics


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formatting.percent(-0.2093), "−20.9\u202f%"),
        (formatting.percent(0.0041), "+0.41\u202f%"),
        (formatting.percent(-0.00001), "0.00\u202f%"),
        (formatting.percent(1.5), "+150\u202f%"),
        (formatting.percent_range(-0.261, 0.0153), "−26.1 to +1.5\u202f%"),
        (formatting.difference(0.112, "share"), "+11.2 points"),
        (formatting.difference(-0.52, "decibel"), "−0.52\u202fdB"),
        (formatting.difference_range(-0.1, 0.25, "share"), "−10.0 to +25.0 points"),
        (formatting.difference_range(-0.62, -0.42, "decibel"), "−0.62 to −0.42\u202fdB"),
        (formatting.difference_range(0.009, 0.017, "plain"), "+0.0090 to +0.0170"),
        (formatting.quantity(0.452, "share"), "45.2\u202f%"),
        (formatting.quantity(3.018, "distance"), "3.02"),
        (formatting.quantity(370.6, "distance"), "371"),
        (formatting.number(12345.6), "12\u202f346"),
        (formatting.number(0.0), "0.000"),
        (formatting.number(2.5e-6), "2.50e−06"),
        (formatting.number(None), "–"),
        (formatting.duration(12.3), "12\u202fs"),
        (formatting.duration(200), "3\u202fmin 20\u202fs"),
        (formatting.duration(3900), "1\u202fh 05\u202fmin"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(("low", "high"), [(-0.4, 0.1), (0.0, 3.2), (0.0, 371.0), (-1e-3, 2e-3)])
def test_ticks_are_round_even_and_inside(low: float, high: float) -> None:
    ticks = formatting.nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_scale_keeps_values_inside_and_small_changes_small() -> None:
    scale = Scale.around([-0.3, 0.1], 0.2)
    assert 0 < float(scale.at(-0.3)[:-1]) < float(scale.at(0)[:-1]) < float(scale.at(0.1)[:-1]) < 100
    narrow = Scale.around([0.001], 0.2)
    assert 0 < float(narrow.at(0.001)[:-1]) - float(narrow.at(0)[:-1]) < 1


def test_smoothing_keeps_lines_and_lengths() -> None:
    line = [2.0 * i for i in range(90)]
    assert smoothed(line)[10:-10] == pytest.approx(line[10:-10])
    assert smoothed([1.0, 5.0]) == [1.0, 5.0]


@pytest.mark.parametrize("count", [1, 399, 400, 401, 12_345])
def test_thinning_keeps_both_ends(count: int) -> None:
    points = thinned([float(i) for i in range(count)], [0.0] * count)
    assert len(points) <= 401
    assert points[0][0] == 0.0
    assert points[-1][0] == count - 1


def test_every_metric_of_a_run_has_words() -> None:
    found = metrics()
    names = {name for arm in found["arms"].values() for name in arm}
    assert [name for name in names if describe(name).theme == "other"] == []


def test_metrics_are_ordered_by_theme_then_guidance() -> None:
    names = ["odd", "latents/kl", "samples/guidance-3/fd/a", "reconstruction/psnr", "samples/guidance-1/recall/a"]
    ordered = sorted((describe(name) for name in names), key=sort_key)
    assert [metric.name for metric in ordered] == [
        "samples/guidance-1/recall/a",
        "samples/guidance-3/fd/a",
        "reconstruction/psnr",
        "latents/kl",
        "odd",
    ]


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "<b>&", Html("<i></i>"), title='"', hidden=True, id=None) == (
        '<p title="&quot;" hidden>&lt;b&gt;&amp;<i></i></p>'
    )
