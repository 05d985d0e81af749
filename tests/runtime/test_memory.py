"""The allocator's settings are accepted where they exist."""

import subprocess
import sys

import pytest

from reals.runtime.memory import images_at_once, keep_freed_memory


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_are_kept_after_freeing() -> None:
    """In a fresh process: a freed block of 100 MB, which glibc would unmap, stays resident."""
    program = """
import ctypes, os, sys
from reals.runtime.memory import images_at_once, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
took_effect = keep_freed_memory()
before = resident()
block = bytearray(os.urandom(1)) * 100_000_000
del block
print(took_effect, resident() - before > 90_000_000)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() in (["True", "True"], ["False", "False"])


def test_large_images_pass_in_smaller_batches() -> None:
    assert images_at_once(32, 250) == 250
    assert images_at_once(64, 250) == 250
    assert images_at_once(256, 250) == 32
    assert images_at_once(256, 10) == 10
    assert images_at_once(4096, 250) == 1
