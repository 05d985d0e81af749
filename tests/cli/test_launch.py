"""Under ``torchrun`` a mistake is told once, and the processes that waited for the one that found it stay quiet."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def told(*arguments: object) -> list[str]:
    """Run ``reals`` in two processes and return what is on standard error besides the launcher's own report."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "reals"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    report = done.stderr.find("[0]:") if "Root Cause" in done.stderr else -1
    assert "exitcode  : 2" in done.stderr[report:], done.stderr
    lines = done.stderr.splitlines()
    # The launcher's report starts with what it did to the processes, and has the only traceback.
    assert sum("Traceback (most recent" in line for line in lines) == 1, done.stderr
    return [line for line in lines if line.startswith("reals: ")]


@pytest.mark.dist
def test_mistakes_before_the_processes_meet_are_told_once() -> None:
    assert told("evaluate", "a.npz", "b.npz", "--replicate", 3) == [
        "reals: evaluate: unknown flag '--replicate'; did you mean '--replicates'?"
    ]


@pytest.mark.dist
def test_mistakes_that_the_main_process_finds_are_told_once(tmp_path: Path) -> None:
    for name, count in (("many", 8), ("few", 3)):
        np.savez(tmp_path / f"{name}.npz", arr_0=np.zeros((count, 8, 8, 3), np.uint8))
    few = tmp_path / "few.npz"
    assert told("evaluate", tmp_path / "many.npz", few) == [f"reals: {few}: holds 3 images; give at least 4"]


@pytest.mark.dist
def test_mistakes_that_one_process_finds_at_work_are_told_once(tmp_path: Path) -> None:
    """A broken image in the second block is met by the second process alone, while the main one waits for it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(photos / f"{index:03}.png")
    (photos / "150.png").write_bytes(b"no picture")
    (line,) = told("evaluate", photos, photos)
    assert line.startswith(f"reals: {photos}: 150.png cannot be read")
