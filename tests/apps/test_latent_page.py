"""The page of an analysis, from a made-up one."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reals.apps.report import write_report
from reals.apps.report.latent_catalogue import GROUPS, describe
from reals.apps.report.latent_page import write_analysis_page
from reals.runtime.errors import UserError
from tests.apps.report_run import metrics, write_run

_VOID = {"meta", "link", "br", "img", "hr"}


def space(name: str, kl: float = 2e-5, align: float = 0.1, raise_by: float = 0.0) -> dict[str, Any]:
    """Return one analysed space; ``raise_by`` moves what has a direction."""
    values = {
        "latents/linear_probe_accuracy_pooled": 0.3 + raise_by,
        "latents/std": 1.0 + 1e4 * kl,
        "reconstruction/psnr": 27.0 - raise_by,
        "semantic/cka_pooled": 0.1,
        "equivariance/half": 0.6,
        "interpolation_fd/classifier": 2.5,
    }
    for view in ("crop", "flip", "blur", "grayscale", "all"):
        for part in ("raw", "raw_between", "centred", "centred_between"):
            values[f"semantic_consistency/{view}/{part}"] = 0.4 + raise_by
    measured: dict[str, Any] = {
        key: {"value": value, "low": value - 0.01, "high": value + 0.02} for key, value in values.items()
    }
    measured["latents/min"] = {"value": -5.5}
    curves = {
        "channels": {
            "kl": [{"value": v, "low": v, "high": v} for v in (40.0, 0.1)],
            "signal_share": [0.9, 0.1],
            "dead": [False, True],
        },
        "spectrum": {
            "white_noise_share": 0.8,
            "frequencies": [0.13, 0.26, 0.5],
            "samples": [2, 1, 0.5],
            "centred": [2, 1, 0.6],
            "means": [2, 1, 0.1],
        },
        "map": [[0.0, 1.0], [3.0, 4.0], [-2.0, 0.5], [1.0, 1.0]],
    }
    return {
        "name": name,
        "directory": f"/x/{name}",
        "fingerprint": "ab" * 32,
        "channels": 2,
        "downsampling": 4,
        "settings": {"kl": kl, "align": align},
        "measured": measured,
        "curves": curves,
        "not_measured": {"lpips": "needs the weights of LPIPS, which this version does not read"},
        "grid": [8, 8],
        "picture": "spaces/a.png",
    }


def write_analysis(directory: Path, spaces: list[dict[str, Any]], score: dict[str, float] | None) -> None:
    """Write a made-up analysis with its pictures."""
    (directory / "spaces").mkdir(parents=True)
    for name in ("spaces/a.png", "photos.png"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(directory / name)
    part = {"name": "interpolation_fd/*", "better": "lower", "because": "a reason"}
    ranked = None
    if score is not None:
        ranked = {"score": score, "points": {part["name"]: score}, "components": [part], "left_out": ["latents/x"]}
    found = {
        "format": 1,
        "spaces": spaces,
        "diffusability": ranked,
        "map": {"labels": ["cat", "cat", "dog", "<dog>"]},
        "photos": "photos.png",
        "protocol": {"data": "photos/cats.zip", "images": {"count": 2000, "size": 32, "hash": "cd" * 32}},
    }
    (directory / "analysis.json").write_text(json.dumps(found))


class _Balanced(HTMLParser):
    """Raises where elements do not close in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass


def page(directory: Path) -> str:
    """Return the page of the analysis in ``directory``, checked to be whole."""
    html = write_analysis_page(directory).read_text()
    parser = _Balanced()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "<script" not in html
    return html


def test_the_page_names_the_space_that_promises_most(tmp_path: Path) -> None:
    write_analysis(
        tmp_path, [space("baseline", align=0), space("aligned", raise_by=0.1)], {"baseline": 0, "aligned": 1}
    )
    html = page(tmp_path)
    assert "<h1>aligned promises the easiest latent space</h1>" in html
    assert "aligned 1.00, baseline 0.00. Measured on 2\u202f000 held-out photos of 32×32 pixels (cats.zip)" in html
    for words in ("Map of classes", "Semantic Consistency", "Spectra", "1 dead", "&lt;dog&gt;", "a reason"):
        assert words in html
    assert "Not counted, as some space lacks it: latents/x" in html
    assert "lpips: needs the weights of LPIPS" in html
    assert html.count('class="map"') == 2
    assert "KL weight" not in html, "one weight is no sweep"


def test_equal_scores_and_single_spaces_promise_nothing(tmp_path: Path) -> None:
    write_analysis(tmp_path / "two", [space("a"), space("b")], {"a": 0.5, "b": 0.5})
    assert "<h1>No latent space stands out</h1>" in page(tmp_path / "two")
    write_analysis(tmp_path / "one", [space("a")], None)
    html = page(tmp_path / "one")
    assert "A score needs a second space" in html
    assert "Diffusability score" not in html


def test_several_kl_weights_are_a_sweep(tmp_path: Path) -> None:
    spaces = [space(f"run{kl:g}", kl=kl, raise_by=1000 * kl) for kl in (1e-6, 2e-5, 5e-5)]
    write_analysis(tmp_path, spaces, {entry["name"]: 0.5 for entry in spaces})
    html = page(tmp_path)
    assert "KL weight" in html
    chart = re.search(r'aria-label="PSNR, dB by KL weight">.*?</svg>', html)
    assert chart is not None
    circles = [(float(x), float(y), float(r)) for x, y, r in re.findall(r'cx="(.*?)" cy="(.*?)" r="(.*?)"', chart[0])]
    assert [x for x, _, _ in circles] == sorted(x for x, _, _ in circles)
    # PSNR falls with the weight: further down the page is larger y. The standard deviation, and the dot, grows.
    assert [y for _, y, _ in circles] == sorted(y for _, y, _ in circles)
    assert [r for _, _, r in circles] == sorted(r for _, _, r in circles)
    assert circles[0][2] < circles[2][2]


def test_a_run_s_report_has_the_analysis(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    assert "Latent space</h2>" not in write_report(run).read_text()
    write_analysis(run / "analysis", [space("baseline"), space("aligned")], {"baseline": 0, "aligned": 1})
    html = write_report(run).read_text()
    for words in ('href="#latent-space"', "Latent space</h2>", "Diffusability score", "All numbers of the analysis"):
        assert words in html
    (run / "analysis" / "analysis.json").write_text('{"spaces": [], "format": 7}')
    assert "format 7, expected 1; analyse again" in write_report(run).read_text()


def test_what_is_no_analysis(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        write_analysis_page(tmp_path)
    (tmp_path / "analysis.json").write_text("{}")
    with pytest.raises(UserError, match="not an analysis"):
        write_analysis_page(tmp_path)
    (tmp_path / "analysis.json").write_text('{"spaces": [], "format": 7}')
    with pytest.raises(UserError, match="format 7, expected 1"):
        write_analysis_page(tmp_path)


@pytest.mark.parametrize(
    ("name", "group", "label", "better"),
    [
        ("semantic_consistency/blur/centred", "semantics", "Semantic Consistency, blur, centred", "higher"),
        ("semantic_consistency/all/raw_between", "semantics", "Semantic Consistency, all, different images", None),
        ("rank/flat_participation", "shape", "Effective rank, whole latents, participation", None),
        ("equivariance/half", "equivariance", "Error, half the size", None),
        ("equivariance_centred/half", "equivariance", "Error, centred, half the size", "lower"),
        ("interpolation_fd/rotation", "decoder", "Distance of midpoints · rotation", "lower"),
        ("reconstructions/fd/classifier", "decoder", "Distance of reconstructions · classifier", "lower"),
        ("news", "other", "news", None),
    ],
)
def test_numbers_have_words(name: str, group: str, label: str, better: str | None) -> None:
    entry = describe(name)
    assert (entry.group, entry.label, entry.better) == (group, label, better)
    assert group in GROUPS
