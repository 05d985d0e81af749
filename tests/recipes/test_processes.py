"""The whole pipeline under ``torchrun``: two processes share the work and one of them answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reals.runtime.io import read_json


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_run_to_the_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "reals"]
    command += ["run", "--data", "scenes:120", "--recipe", "debug", "--out", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_json(run / "metrics.json")
    assert set(metrics["arms"]) == {"baseline", "aligned"}
    assert metrics["protocol"]["processes"] == 2
    assert (run / "report.html").exists()
    assert done.stderr.count("metrics: ") == 1
