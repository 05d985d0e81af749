"""Tasks side by side: done, stopped, failed and killed together."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.processes import run_together

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def note_threads(path: Path) -> None:
    """Write down how many threads this process may use."""
    import torch

    path.write_text(f"{os.getpid()} {torch.get_num_threads()}")


def mistake(message: str) -> None:
    """Fail as a user's mistake does."""
    raise UserError(message)


def crash() -> None:
    """Fail as a bug does."""
    raise KeyError("a bug")


def killed() -> None:
    """Die as a process does that took too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def work_until_stopped(begun: Path) -> None:
    """Work for a minute, or until asked to stop."""
    interrupt.install()
    begun.touch()
    for _ in range(600):
        interrupt.stop_if_requested("while working")
        time.sleep(0.1)


def alive(process: int) -> bool:
    """Return whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_are_done_in_processes_of_their_own(tmp_path: Path) -> None:
    run_together({name: partial(note_threads, tmp_path / name) for name in "ab"}, threads=1)
    found = [(tmp_path / name).read_text().split() for name in "ab"]
    assert [threads for _, threads in found] == ["1", "1"]
    assert len({os.getpid(), *(int(process) for process, _ in found)}) == 3


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        (partial(mistake, "no such photo"), UserError, "^no such photo$"),
        (killed, UserError, "^first: its process was killed, perhaps for lack of memory"),
        (crash, RuntimeError, "^first: its process ended with exit code 1$"),
    ],
)
def test_the_failure_of_one_stops_the_others(
    tmp_path: Path, task: partial[None], error: type[Exception], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        run_together({"first": task, "second": partial(work_until_stopped, tmp_path / "begun")}, threads=1)
    assert time.monotonic() - started < 45


def test_a_request_to_stop_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [tmp_path / name for name in "ab"]
    monkeypatch.setattr(interrupt, "requested", lambda: "SIGTERM" if all(path.exists() for path in begun) else None)
    with pytest.raises(
        Interrupted, match=r"^a: stopped by SIGTERM while working; b: stopped by SIGTERM while working$"
    ):
        run_together({path.name: partial(work_until_stopped, path) for path in begun}, threads=1)


PARENT = """
from functools import partial
from pathlib import Path
from reals.runtime.processes import run_together
from tests.runtime.test_processes import linger
if __name__ == "__main__":
    run_together({"child": partial(linger, Path(%r))}, threads=1)
"""


def linger(path: Path) -> None:
    """Say who this is, whole, and stay."""
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(120)


def test_none_outlives_a_killed_parent(tmp_path: Path) -> None:
    program, said = tmp_path / "parent.py", tmp_path / "child"
    program.write_text(PARENT % str(said))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(program)], env=environment)
    try:
        while not said.exists():
            assert parent.poll() is None
            time.sleep(0.05)
        child = int(said.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
