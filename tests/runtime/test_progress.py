"""Progress lines: what they say, and when they are worth saying."""

import time

import pytest

from reals.runtime.progress import Progress, progress, say


class Clock:
    """Stands in for ``time.monotonic``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_tells_rate_and_time_left(clock: Clock) -> None:
    shown = Progress("Train", 1000, "images")
    clock.now += 50.0
    shown.advance(100, "loss 0.5")
    assert shown.line() == "Train: 100/1000 (10%) · 2 images/s · 7:30 left · loss 0.5"
    shown.advance(100)
    assert shown.line() == "Train: 200/1000 (20%) · 4 images/s · 3:20 left · loss 0.5"


def test_work_done_earlier_is_progress_but_not_speed(clock: Clock) -> None:
    shown = Progress("Decode", 1000, "images", done=500)
    clock.now += 10.0
    assert shown.line() == "Decode: 500/1000 (50%) · 0 images/s · ? left"
    shown.advance(100)
    assert shown.line() == "Decode: 600/1000 (60%) · 10 images/s · 0:40 left"


def test_finished_work_tells_how_long_it_took(clock: Clock) -> None:
    shown = Progress("Train", 10, "images")
    clock.now += 2 * 3600 + 3 * 60 + 4
    shown.advance(10)
    assert shown.line() == "Train: 10/10 (100%) · 0.001354 images/s · 2:03:04"


def test_nothing_to_do_is_no_division_by_zero(clock: Clock) -> None:
    assert Progress("Nothing", 0, "images").line() == "Nothing: 0/0 (0%) · 0 images/s · 0:00"


def test_a_log_has_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Work", 30, "rows") as shown:
        for _ in range(30):
            clock.now += 1.0
            shown.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["10/30", "20/30", "30/30"]


@pytest.mark.parametrize(("seconds", "told"), [(9.0, ["0:10"]), (15.0, ["0:10", "0:25"])])
def test_a_last_line_is_repeated_only_where_it_has_aged(
    seconds: float, told: list[str], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("Work", 3, "rows") as shown:
        clock.now += 10.0
        shown.advance(3)
        clock.now += seconds
    assert [line.split(" · ")[-1] for line in capsys.readouterr().err.splitlines()] == told


def test_quick_work_is_not_mentioned(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Work", 3, "rows") as shown:
        clock.now += 1.9
        shown.advance(3)
    assert capsys.readouterr() == ("", "")


def test_longer_work_is_told_when_it_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Work", 3, "rows") as shown:
        clock.now += 2.0
        shown.advance(3)
    assert capsys.readouterr() == ("", "Work: 3/3 (100%) · 1.5 rows/s · 0:02\n")


def test_a_terminal_has_one_line_that_is_rewritten(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("Work", 4, "rows") as shown:
        for _ in range(4):
            clock.now += 0.25
            shown.advance()
    written = capsys.readouterr().err
    assert "\n" not in written
    assert written.count("\r\x1b[2K") == 5
    assert written.endswith("\r\x1b[2K")


def test_failed_work_is_not_reported_as_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress("Work", 3, "rows"):
            clock.now += 5.0
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert capsys.readouterr().err == ""


def test_only_the_main_process_speaks(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    say("hello")
    with progress("Work", 3, "rows") as shown:
        clock.now += 60.0
        shown.advance(3)
    assert shown.done == 3
    assert capsys.readouterr() == ("", "")
