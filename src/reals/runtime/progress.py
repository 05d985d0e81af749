"""Progress with rates and time left: a live bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from reals.runtime import dist

_LOG_INTERVAL_SECONDS = 10.0
# Work that took less than this is not worth a line of its own.
_WORTH_TELLING_SECONDS = 2.0

live = True
"""Whether this process may rewrite a terminal's line; False where another process writes to the same terminal."""


class Progress:
    """Counts units of work and shows how fast they go; made by :func:`progress`."""

    def __init__(self, description: str, total: int, unit: str, done: int = 0):
        self.description = description
        self.total = total
        self.unit = unit
        self.done = done
        self.note = ""
        self._first = done
        self._started = self._shown = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Add ``count`` finished units; ``note`` (a loss, say) is shown behind the rate."""
        self.done += count
        self.note = self.note if note is None else note

    @property
    def told(self) -> bool:
        """Whether a line that was just written says what :meth:`line` would."""
        return False

    @property
    def elapsed(self) -> float:
        """Seconds since the work was started or resumed."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Units per second since the work was started or resumed."""
        return (self.done - self._first) / max(self.elapsed, 1e-9)

    def line(self) -> str:
        """Return what is shown, as one line of text."""
        remaining = (self.total - self.done) / self.rate if self.done > self._first else float("nan")
        left = f"{_duration(remaining)} left" if self.done < self.total else _duration(self.elapsed)
        percent = 100 * self.done // max(self.total, 1)
        note = f" · {self.note}" if self.note else ""
        return (
            f"{self.description}: {self.done}/{self.total} ({percent}%) · {self.rate:.4g} {self.unit}/s · {left}{note}"
        )


class _LogProgress(Progress):
    _told_of = -1

    def advance(self, count: int = 1, note: str | None = None) -> None:
        super().advance(count, note)
        if time.monotonic() - self._shown >= _LOG_INTERVAL_SECONDS:
            self._shown, self._told_of = time.monotonic(), self.done
            say(self.line())

    @property
    def told(self) -> bool:
        return self._told_of == self.done and time.monotonic() - self._shown < _LOG_INTERVAL_SECONDS


class _TerminalProgress(Progress):
    def advance(self, count: int = 1, note: str | None = None) -> None:
        super().advance(count, note)
        if time.monotonic() - self._shown >= 0.2:
            self._shown = time.monotonic()
            self.draw()

    def draw(self) -> None:
        """Rewrite the current terminal line."""
        from rich.console import Console

        width = Console(stderr=True).width - 1
        sys.stderr.write("\r\x1b[2K" + self.line()[:width])
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress(description: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Show the progress of ``total`` units named ``unit`` (plural), of which ``done`` were finished earlier."""
    if not dist.is_main():
        yield Progress(description, total, unit, done)
        return
    terminal = live and sys.stderr.isatty()
    shown = (_TerminalProgress if terminal else _LogProgress)(description, total, unit, done)
    try:
        yield shown
    finally:
        if terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
    if shown.elapsed >= _WORTH_TELLING_SECONDS and not shown.told:
        say(shown.line())


def say(message: str) -> None:
    """Print one line for the user, from the main process only, to standard error."""
    if dist.is_main():
        print(message, file=sys.stderr, flush=True)
