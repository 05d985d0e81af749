"""``reals evaluate`` under ``torchrun``: the processes share the features, and the result is what one makes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.runtime.io import read_json

_PROCESS = """
import os, sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from reals.apps.evaluate import Extras, evaluate
from reals.evaluation import feature_cache
from tests.apps.test_evaluate import QuadrantMeans

if int(os.environ["WORLD_SIZE"]) > 1:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))

class Counting(QuadrantMeans):
    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)

feature_cache.features_of.__kwdefaults__["batch_size"] = 8
network, other = Counting(), Counting()
other.name = "more"
root, out = Path(sys.argv[1]), Path(sys.argv[2])
settings = dict(replicates=10, network=network, extras=Extras(more=True, others=(other,)))
result = evaluate(str(root / "photos"), str(root / "samples.npz"), output=out, **settings)
first = network.seen, other.seen
settings["cache"] = out.with_suffix("")
cached = [evaluate(str(root / "photos"), str(root / "samples.npz"), **settings) for _ in range(2)]
assert cached == [result, result]
assert bool(result) == (os.environ["RANK"] == "0")
print(*first, network.seen - first[0])
if dist.is_initialized():
    dist.destroy_process_group()
"""


def _start(root: Path, out: Path, rank: int, size: int) -> "subprocess.Popen[str]":
    port = str(20_000 + os.getpid() % 20_000)
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(root), str(out)],
        env={**os.environ, **ranks, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.dist
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(21):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index:02}.png")
    np.savez(tmp_path / "samples.npz", arr_0=generator.integers(0, 256, (37, 8, 8, 3), dtype=np.uint8))
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    processes = [_start(tmp_path, one, 0, 1), _start(tmp_path, two, 0, 2), _start(tmp_path, two, 1, 2)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert read_json(two) == read_json(one)
    # Blocks of 8 in turn; the cache is filled once and then read.
    assert [shown for shown, _ in ended] == ["58 58 58\n", "34 34 34\n", "24 24 24\n"]
    assert "warning" in ended[1][1]
    assert ended[2][1] == ""
