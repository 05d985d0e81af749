"""Whole runs of the smallest recipe, made once a session and only looked at by the tests."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reals.cli.main import _dispatch
from reals.runtime import interrupt
from reals.runtime.threads import one_thread

DEBUG = ("run", "--recipe", "debug", "--data", "scenes:120")
_made: dict[str, Path] = {}


@contextmanager
def _as_a_command() -> Iterator[None]:
    """Take back what a command does to its process: signal handlers, requests to stop, the number of threads."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with one_thread():
            yield
    finally:
        interrupt._requested = None
        for number, handler in before.items():
            signal.signal(number, handler)


def reals(*arguments: object) -> int:
    """Run a command in this process, on one thread, and return its exit code."""
    with _as_a_command():
        return _dispatch([str(argument) for argument in arguments])


def drive(out: Path, moments: list[str], *command: object) -> list[dict[str, Any]]:
    """Run a command in children that are killed at ``moments``; see :mod:`tests.recipes.driver`."""
    driver = [sys.executable, str(Path(__file__).with_name("driver.py")), str(out), json.dumps(moments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*driver, *map(str, command)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    endings: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert endings[-1]["code"] == 0, done.stderr
    return endings


def debug_run(factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an uninterrupted run on 120 scenes; tests must not write there."""
    if "debug" not in _made:
        out = factory.mktemp("debug") / "run"
        drive(out, [], *DEBUG, "--out", out)
        _made["debug"] = out
    return _made["debug"]


def contents(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``directory`` by its relative name; empty directories count, too."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in sorted(directory.rglob("*"))
    }


def is_event_file(name: str) -> bool:
    """Return whether a file is TensorBoard's, whose name tells when and by which process it was begun."""
    return "/tensorboard/" in name
