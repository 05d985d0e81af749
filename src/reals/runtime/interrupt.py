"""SIGTERM and Ctrl-C as a flag that long work looks at between units, so that it saves before it stops."""

import os
import signal
from types import FrameType

from reals.runtime.errors import Interrupted

_requested: str | None = None


def install() -> None:
    """Turn SIGTERM and SIGINT into a request; a second signal of either kind ends the process at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _request)


def _request(number: int, _frame: FrameType | None) -> None:
    global _requested
    if _requested is not None:
        os._exit(128 + number)
    _requested = signal.Signals(number).name


def requested() -> str | None:
    """Return the name of the signal that asked the process to stop, or None."""
    return _requested


def stop_if_requested(where: str) -> None:
    """Raise :class:`Interrupted` naming ``where`` if a signal has asked the process to stop."""
    if _requested is not None:
        raise Interrupted(f"stopped by {_requested} {where}")
