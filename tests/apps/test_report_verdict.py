"""The verdict: computed from intervals, never beyond them."""

from pathlib import Path
from typing import Any

import pytest

from reals.apps.report.inputs import Run, read_run
from reals.apps.report.verdict import Verdict, confidence, judge, price
from tests.apps.report_run import SEEN, UNSEEN, change, metrics, single_arm, write_run

HELPED = change(3.0, 2.4, "lower", 0.05)
HURT = change(3.0, 3.6, "lower", 0.05)
UNCLEAR = change(3.0, 2.9, "lower", 0.05)
UNKNOWN = {**HELPED, "interval": None}


def _run(directory: Path, distances: dict[str, dict[str, Any]], **more: Any) -> Run:
    found = metrics()
    kept = {name: entry for name, entry in found["comparison"].items() if "/fd/" not in name}
    return read_run(write_run(directory, found | {"comparison": kept | distances} | more))


def _verdict(directory: Path, first: dict[str, Any], third: dict[str, Any], network: str = UNSEEN) -> Verdict:
    distances = {f"samples/guidance-1/fd/{network}": first, f"samples/guidance-3/fd/{network}": third}
    return judge(_run(directory, distances))


def test_helped_needs_every_interval(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, HELPED, change(2.0, 1.5, "lower", 0.04))
    assert verdict.kind == "helped"
    assert verdict.headline == "In this run, alignment helped"
    assert "fell by 20.0\u202f% without guidance and by 25.0\u202f% with guidance 3" in verdict.lead


def test_hurt(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, HURT, HURT)
    assert verdict.kind == "hurt"
    assert verdict.headline == "In this run, alignment hurt"
    assert "rose by 20.0\u202f%" in verdict.lead


def test_partial_help_names_the_doubt(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, UNCLEAR, HELPED)
    assert verdict.kind == "helped"
    assert verdict.headline == (
        "In this run, alignment helped with guidance 3; without guidance no difference is distinguishable"
    )
    assert "interval without guidance includes zero" in verdict.lead


def test_mixed_names_both(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, HELPED, HURT)
    assert verdict.kind == "mixed"
    assert "helped without guidance and hurt with guidance 3" in verdict.headline


def test_intervals_with_zero_are_not_distinguishable(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, UNCLEAR, UNCLEAR)
    assert verdict.kind == "unclear"
    assert "not distinguishable" in verdict.lead
    assert "no proof of no effect" in verdict.lead
    assert "helped" not in verdict.headline


def test_an_interval_that_touches_zero_is_unclear(tmp_path: Path) -> None:
    assert _verdict(tmp_path, {**HELPED, "interval": [-0.4, 0.0]}, UNCLEAR).kind == "unclear"


def test_the_network_that_alignment_saw_is_not_counted(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, HELPED, HELPED, network=SEEN)
    assert verdict.kind == "none"
    assert len(verdict.biased) == 2
    assert verdict.evidence == ()


def test_a_network_of_unknown_training_is_not_counted(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, HELPED, HELPED, network="mystery")
    assert verdict.kind == "none"
    assert verdict.biased == ()


def test_distances_without_intervals_give_no_verdict(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, UNKNOWN, UNKNOWN)
    assert verdict.kind == "none"
    assert "no intervals" in verdict.lead


def test_distances_to_reconstructions_and_of_reconstructions_are_not_counted(tmp_path: Path) -> None:
    distances = {
        f"samples/guidance-1/fd_to_reconstructions/{UNSEEN}": HELPED,
        f"reconstructions/fd/{UNSEEN}": HURT,
        f"samples/guidance-1/fd/{UNSEEN}": UNCLEAR,
    }
    assert judge(_run(tmp_path, distances)).kind == "unclear"


def test_several_unseen_networks_are_named(tmp_path: Path) -> None:
    protocol = metrics()["protocol"]
    protocol["feature_networks"]["second"] = {"dimension": 64, "seen_by_alignment": False}
    distances = {f"samples/guidance-1/fd/{UNSEEN}": HELPED, "samples/guidance-1/fd/second": HURT}
    verdict = judge(_run(tmp_path, distances, protocol=protocol))
    assert verdict.kind == "mixed"
    assert "helped without guidance (in classifier) and hurt without guidance (in second)" in verdict.headline


def test_difference_intervals_count_too(tmp_path: Path) -> None:
    entry = change(3.0, 2.4, "lower", 0.1, "difference")
    verdict = judge(_run(tmp_path, {f"samples/guidance-1/fd/{UNSEEN}": {**entry, "relative_change": None}}))
    assert verdict.kind == "helped"
    assert "fell by 0.600 without guidance" in verdict.lead


def test_single_arm_gives_no_verdict(tmp_path: Path) -> None:
    verdict = judge(read_run(write_run(tmp_path, single_arm())))
    assert verdict.kind == "single"
    assert "cannot say whether alignment helps" in verdict.lead
    assert "Run the aligned arm" in verdict.lead


@pytest.mark.parametrize(
    ("aligned", "words"),
    [(26.9, "lost fidelity"), (28.0, "rose"), (27.405, "None that can be distinguished")],
)
def test_price_follows_the_interval(tmp_path: Path, aligned: float, words: str) -> None:
    run = _run(tmp_path, {"reconstruction/psnr": change(27.4, aligned, "higher", 0.003)})
    assert words in price(run)[0]
    assert f"27.40\u202fdB → {aligned:.2f}\u202fdB" in price(run)[0]


def test_price_unknown_without_psnr(tmp_path: Path) -> None:
    found = metrics()
    found["comparison"].pop("reconstruction/psnr")
    assert "price of alignment is unknown" in price(read_run(write_run(tmp_path, found)))[0]


def test_confidence_says_what_intervals_do_not_cover(tmp_path: Path) -> None:
    run = _run(tmp_path, {f"samples/guidance-1/fd/{UNSEEN}": HELPED, f"samples/guidance-3/fd/{UNSEEN}": UNCLEAR})
    said = " ".join(confidence(run, judge(run)))
    assert "1 of 2 intervals excludes zero" in said
    assert "do not cover how another training seed" in said
    assert "200 bootstrap resamples of 2000 samples" in said
    assert "inflated" not in said


def test_few_samples_are_called_out(tmp_path: Path) -> None:
    protocol = metrics()["protocol"]
    protocol["samples"]["count"] = 100
    run = _run(tmp_path, {f"samples/guidance-1/fd/{UNSEEN}": HELPED}, protocol=protocol)
    assert "100 samples are fewer than the 128 feature dimensions" in " ".join(confidence(run, judge(run)))
