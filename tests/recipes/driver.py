"""Runs a ``reals`` command in forked children, each killed at its moment, until the last one finishes.

As a program: ``driver.py OUT MOMENTS COMMAND…``, where MOMENTS is a JSON list of patterns below OUT. A child is killed
(SIGKILL) shortly after a file fits the next pattern; a pattern that fits already is passed over. Everything heavy is
imported once, before the first fork; each child is otherwise a fresh process. Prints how each child ended, as JSON.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

_PATIENCE_SECONDS = 240.0
_JITTER_SECONDS = 0.05
_HEAVY = (
    "reals.cli.pipeline",
    "diffusers.models.autoencoders.autoencoder_kl",
    "sklearn.linear_model",
    "torchmetrics.functional.image",
)


def start(command: list[str]) -> int:
    """Start the command in a child and return its process id."""
    from reals.cli.main import _dispatch

    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _dispatch(command)
        finally:
            os._exit(code)
    return child


def kill_at(child: int, out: Path, moment: str, delay: float) -> int:
    """Kill the child ``delay`` seconds after ``moment``, or find that it has ended; return its wait status."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and next(out.glob(moment), None) is None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main() -> None:
    """Do what the module says."""
    out, moments, command = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    for module in _HEAVY:
        importlib.import_module(module)
    chance = random.Random(0)
    endings: list[dict[str, object]] = []
    for moment in moments:
        if next(out.glob(moment), None) is not None:
            continue
        status = kill_at(start(command), out, moment, chance.uniform(0.0, _JITTER_SECONDS))
        endings.append({"moment": moment, "code": os.waitstatus_to_exitcode(status)})
    status = os.waitpid(start(command), 0)[1]
    endings.append({"moment": None, "code": os.waitstatus_to_exitcode(status)})
    sys.stdout.write(json.dumps(endings))


if __name__ == "__main__":
    main()
