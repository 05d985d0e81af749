"""The main process goes first, and features meet in it; alone, hashing shows progress and can be stopped."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reals.evaluation import feature_cache, shared_extraction
from reals.evaluation.image_sets import open_images
from reals.evaluation.shared_extraction import hash_shared
from reals.runtime import interrupt
from reals.runtime.errors import Interrupted

_GO_FIRST = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from reals.evaluation.shared_extraction import main_first

# Far less patience than the main process takes, as NCCL has less than a download may.
dist.init_process_group("gloo", timeout=timedelta(seconds=2))
made = Path(sys.argv[1])
for turn in range(2):
    with main_first():
        if os.environ["RANK"] == "0":
            assert not made.with_suffix(f".{turn}").exists()
            if len(sys.argv) > 2:
                sys.exit("a mistake")
            time.sleep(4)
            made.with_suffix(f".{turn}").touch()
        assert made.with_suffix(f".{turn}").exists()
print("done")
"""


def _two(tmp_path: Path, program: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "made"), *arguments],
            env=environment | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    shown = [process.communicate(timeout=100) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *both)
        for process, both in zip(processes, shown, strict=True)
    ]


@pytest.mark.dist
@pytest.mark.slow
def test_the_others_wait_longer_than_a_collective_operation_may(tmp_path: Path) -> None:
    done = _two(tmp_path, _GO_FIRST)
    assert [(process.returncode, process.stdout) for process in done] == [(0, "done\n")] * 2, done


@pytest.mark.dist
def test_the_others_stop_waiting_when_the_main_process_ends(tmp_path: Path) -> None:
    done = _two(tmp_path, _GO_FIRST, "mistake")
    assert [process.returncode for process in done] == [1, 1]
    assert "a mistake" in done[0].stderr
    assert "AssertionError" not in done[1].stderr


def _set(tmp_path: Path, count: int = 21) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", arr_0=images)
    return tmp_path / "set.npz"


def test_one_process_hashes_as_many_do(tmp_path: Path) -> None:
    path = _set(tmp_path)
    alone, shared = open_images(path), open_images(path)
    hash_shared(shared, 8)
    assert shared.hashed
    assert shared.fingerprint() == alone.fingerprint()


class Mean:
    """A network of three features."""

    name, dimension, fingerprint, resize = "mean", 3, "0" * 64, "none"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean(axis=(1, 2)).astype(np.float32)


def test_hashing_for_the_cache_can_be_stopped_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(_set(tmp_path))
    shown: list[str] = []
    progress = shared_extraction.progress

    def watch(description: str, *others: object) -> object:
        shown.append(description)
        monkeypatch.setattr(interrupt, "_requested", "SIGINT")
        return progress(description, *others)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(shared_extraction, "progress", watch)
    with pytest.raises(Interrupted, match="after 0 of 21 images"):
        feature_cache.features_of(images, Mean(), tmp_path / "cache")
    assert shown == [f"Hashing {images.location}"]
    assert not images.hashed
