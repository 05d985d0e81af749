"""The first signal is a request, the second one is obeyed at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from reals.runtime import interrupt
from reals.runtime.errors import Interrupted


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Catch signals during one test."""
    monkeypatch.setattr(interrupt, "_requested", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    interrupt.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    assert interrupt.requested() is None
    interrupt.stop_if_requested("nowhere")
    os.kill(os.getpid(), number)
    assert interrupt.requested() == number.name
    with pytest.raises(Interrupted, match=rf"^stopped by {number.name} after step 3$"):
        interrupt.stop_if_requested("after step 3")


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGTERM", "SIGTERM", 143), ("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGINT", 130)]
)
def test_a_second_signal_ends_the_process(first: str, second: str, code: int) -> None:
    program = f"""
import os, signal
from reals.runtime import interrupt
interrupt.install()
os.kill(os.getpid(), signal.{first})
print("still here", flush=True)
os.kill(os.getpid(), signal.{second})
print("never", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout == "still here\n"
