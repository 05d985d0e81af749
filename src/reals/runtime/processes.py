"""Independent tasks side by side, each in a process of its own: they stop together, and none outlives its parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from reals.runtime import interrupt, progress
from reals.runtime.errors import Interrupted, UserError

Task = Callable[[], None]
"""Picklable: a function at the top of a module, or a ``functools.partial`` of one."""

_KILLED = 9
# How often the parent looks whether it was asked to stop.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class _Child:
    """A running task and the end of the pipe on which it says how it ended."""

    process: SpawnProcess
    outcome: Connection

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def failed(self) -> bool:
        return self.process.exitcode not in (None, 0)


def run_together(tasks: Mapping[str, Task], threads: int) -> None:
    """Run named tasks at the same time, each on ``threads`` CPU threads; return when all are done.

    A signal to this process is passed on, so that each task saves what it has; when one fails, the others are asked to
    stop as well. If this process is killed, so are they.

    Raises:
        UserError: a task made one, or its process was killed.
        Interrupted: a signal asked the tasks to stop.
        RuntimeError: a task failed otherwise; its own process has printed the traceback.
    """
    children = {name: _start(name, task, threads) for name, task in tasks.items()}
    try:
        _watch(children)
    finally:
        for child in children.values():
            if not child.ended:
                child.process.kill()
            child.process.join()
    _raise_first(children)


def _start(name: str, task: Task, threads: int) -> _Child:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, threads, sender), name=name)
    # Ctrl-C reaches the whole group of a terminal. A child is born deaf to it: its parent is the one to tell it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    sender.close()
    return _Child(process, receiver)


def _watch(children: Mapping[str, _Child]) -> None:
    """Wait for all to end; pass a request to stop, or the failure of one, on to the others once."""
    told = False
    while running := [child.process for child in children.values() if not child.ended]:
        wait([process.sentinel for process in running], timeout=_LOOK_SECONDS)
        if not told and (interrupt.requested() is not None or any(child.failed for child in children.values())):
            told = True
            for process in running:
                process.terminate()


def _raise_first(children: Mapping[str, _Child]) -> None:
    """Raise what went wrong, mistakes before interruptions: those may be their consequence."""
    outcomes = {name: _outcome(child) for name, child in children.items()}
    for kind, message in outcomes.values():
        if kind == "user":
            raise UserError(message)
    if interrupt.requested() is not None:
        stopped = [f"{name}: {message}" for name, (kind, message) in outcomes.items() if kind == "interrupted"]
        raise Interrupted("; ".join(stopped) or f"stopped by {interrupt.requested()}")
    for name, child in children.items():
        code = child.process.exitcode
        if code == -_KILLED:
            raise UserError(f"{name}: its process was killed, perhaps for lack of memory; run again to go on")
        if code != 0 and outcomes[name][0] != "interrupted":
            raise RuntimeError(f"{name}: its process ended with exit code {code}")


def _outcome(child: _Child) -> tuple[str, str]:
    """Return how the task says it ended: "user" or "interrupted" with a message, else nothing."""
    # A process that died says nothing.
    with suppress(EOFError):
        if child.outcome.poll():
            kind, message = child.outcome.recv()
            return kind, message
    return "", ""


def _run(task: Task, threads: int, outcome: Connection) -> None:
    """Do the task; the body of a child."""
    import torch

    threading.Thread(target=_die_with_parent, daemon=True).start()
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(threads)
    # Several live lines would overwrite each other.
    progress.live = False
    try:
        task()
    except UserError as error:
        outcome.send(("user", str(error)))
        raise SystemExit(2) from None
    except Interrupted as interruption:
        outcome.send(("interrupted", str(interruption)))
        raise SystemExit(130) from None


def _die_with_parent() -> None:
    """End this process as soon as its parent has ended, however that happened."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
