"""The report's page: whole, safe, self-contained, and honest about what is absent."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reals.apps.report import write_report
from reals.runtime.errors import UserError
from tests.apps.report_run import UNSEEN, change, metrics, single_arm, write_run

_VOID = {"br", "hr", "img", "link", "meta"}


class _Reader(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects attributes, identifiers and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def _page(directory: Path, found: dict[str, Any]) -> tuple[str, _Reader]:
    return _read(write_report(write_run(directory, found)))


def _read(path: Path) -> tuple[str, _Reader]:
    page = path.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return page, reader


def test_page_is_well_formed_and_answers_first(tmp_path: Path) -> None:
    page, reader = _page(tmp_path / "run", metrics())
    assert page.startswith("<!doctype html>")
    assert len(set(reader.ids)) == len(reader.ids)
    links = {value[1:] for _, name, value in reader.attributes if name == "href" and value.startswith("#")}
    assert links == set(reader.ids)
    assert reader.text.index("alignment helped") < reader.text.index("At what price?") < reader.text.index("Protocol")
    assert "not finished" not in reader.text
    assert "is not in the run" not in reader.text


def test_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page, reader = _page(tmp_path / "run", metrics())
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("#", "data:")), f"<{tag} {name}> leads outside"
    assert "<script" not in page
    assert re.search(r"@import|url\(", page) is None
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in reader.attributes
    assert sum(tag == "img" and name == "src" for tag, name, _ in reader.attributes) == 7


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    found = metrics()
    attack = "<script>alert('x')</script>\"&"
    found["protocol"]["data"]["location"] = attack
    found["protocol"]["recipe"]["name"] = attack
    found["arms"]["baseline"][attack] = 1.0
    found["comparison"][attack] = change(1.0, 2.0, "higher")
    page, reader = _page(tmp_path / "run", found)
    assert "<script" not in page
    assert attack in reader.text


def test_unknown_metrics_are_listed(tmp_path: Path) -> None:
    found = metrics()
    for name in ("novel/score", "samples/guidance-x/fd/classifier", "samples/guidance-1/novel/classifier"):
        found["comparison"][name] = change(2.0, 3.0, "higher")
    found["arms"]["baseline"]["alone/in_one_arm"] = 41.25
    _, reader = _page(tmp_path / "run", found)
    other = reader.text[reader.text.rindex("metrics that this page has no words for") :]
    for name in ("novel/score", "samples/guidance-x/fd/classifier", "samples/guidance-1/novel/classifier"):
        assert name in other
    assert "alone/in_one_arm" in other
    assert "+50.0\u202f%" in other
    assert "41.2" in other


def test_table_marks_the_network_that_alignment_saw(tmp_path: Path) -> None:
    page, reader = _page(tmp_path / "run", metrics())
    assert "efficientnet-lite0 · seen by alignment" in reader.text
    assert "classifier · seen" not in reader.text
    row = page[page.index('title="latents/linear_probe_accuracy"') :]
    row = row[: row.index("</tr>")]
    assert "33.0\u202f%" in row
    assert "44.5\u202f%" in row
    assert "+34.8\u202f%" in row
    assert "+28.8 to +40.8\u202f%" in row
    assert "better" in row


def test_missing_pictures_and_logs_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    (run / "originals.png").unlink()
    (run / "aligned" / "samples" / "guidance-3.png").unlink()
    (run / "aligned" / "generator-training" / "log.jsonl").unlink()
    (run / "baseline" / "reconstructions.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    _, reader = _read(write_report(run))
    assert "originals.png is not in the run" in reader.text
    assert "aligned/samples/guidance-3.png is not in the run" in reader.text
    assert "baseline/reconstructions.png is not a whole PNG" in reader.text
    assert "aligned/generator-training/log.jsonl" in reader.text
    assert sum(tag == "img" and name == "src" for tag, name, _ in reader.attributes) == 4


def test_large_pictures_are_compressed_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reals.apps.report.pictures._LARGEST_PNG", 10)
    page, reader = _page(tmp_path / "run", metrics())
    assert "data:image/jpeg;base64," in page
    assert "data:image/png;base64," not in page
    assert "compressed for this page" in reader.text


def test_unfinished_run_says_so(tmp_path: Path) -> None:
    _, reader = _page(tmp_path / "run", metrics() | {"complete": False})
    assert "This run is not finished" in reader.text


def test_barely_started_run_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps({"format": 1, "complete": False, "arms": {}}))
    _, reader = _read(write_report(run))
    assert "No verdict" in reader.text
    assert "No Fréchet distances in metrics.json" in reader.text
    assert "No protocol in metrics.json" in reader.text


def test_single_arm_has_one_column(tmp_path: Path) -> None:
    page, reader = _page(tmp_path / "run", single_arm())
    assert "One arm measured: baseline" in reader.text
    assert "--arms baseline" in reader.text
    assert 'id="changes"' not in page
    assert 'data-label="baseline"' in page
    assert 'data-label="aligned' not in page
    assert 'data-label="change"' not in page


def test_command_is_given(tmp_path: Path) -> None:
    found = metrics()
    found["protocol"]["data"]["location"] = "my photos.zip"
    _, reader = _page(tmp_path / "a", found)
    assert "reals run --recipe photos32 --data 'my photos.zip' --out NEW_DIRECTORY --seed 0" in reader.text
    found["protocol"]["command"] = ["reals", "quickstart", "--out", "x y"]
    _, reader = _page(tmp_path / "b", found)
    assert "reals quickstart --out 'x y'" in reader.text


def test_half_written_and_broken_log_lines(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics())
    log = run / "baseline" / "autoencoder-training" / "log.jsonl"
    log.write_text(log.read_text() + 'broken\n{"loss": 1.0}\n{"step": 900, "lo')
    _, reader = _read(write_report(run))
    assert "2 lines of the logs could not be read" in reader.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"metrics\.json: no such file, so there is nothing to report"),
        ("{", "not a JSON file"),
        ("[]", "not the measurements of a run"),
        ('{"format": 2, "arms": {}}', "format 2, expected 1"),
    ],
)
def test_unusable_metrics_are_one_line_errors(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        write_report(tmp_path / "nowhere")


def test_odd_values_do_not_break_the_page(tmp_path: Path) -> None:
    found = metrics()
    name = f"samples/guidance-1/fd/{UNSEEN}"
    found["arms"]["aligned"] |= {"latents/mean": float("nan"), "latents/kl": None, "latents/std": "much"}
    found["comparison"][name] = {"baseline": 0.0, "aligned": 0.0, "difference": 0.0, "relative_change": None}
    found["comparison"]["latents/kl"] = "broken"
    found["speed"]["aligned"]["samples"] = {"seconds": 0.0, "images_per_second": None}
    _, reader = _page(tmp_path / "run", found)
    assert "no interval" in reader.text
    assert "nan" not in reader.text.replace("nance", "")
