"""Under ``torchrun``: two processes share the work of a run and one answers; stage 1 is what one process makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reals.runtime.io import load_tensors, read_json
from reals.training.log import read_log

WEIGHTS = "diffusion_pytorch_model.safetensors"


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


# Everything that stage 1 has, at once.
EVERYTHING = (
    *("--objective.adversarial.weight", "0.5", "--objective.adversarial.start", "1"),
    *("--objective.adversarial.warm-up", "2", "--objective.adversarial.discriminator.width", "4"),
    *("--objective.adversarial.discriminator.layers", "1", "--objective.adversarial.discriminator.norm", "group"),
    *("--vision-foundation.weight", "0.1", "--align.centre-positions", "True"),
    *("--equivariance.weight", "0.5", "--equivariance.smallest-scale", "0.7"),
    *("--stage1.training.steps", "6", "--stage1.gradient-checkpointing", "True"),
)


def log_of_stage_one(out: Path, processes: int, *more: str) -> list[dict[str, float]]:
    """Train stage 1 of the debug recipe and return what it logged, a line a step."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    command = [*launch, "reals", "align", "--recipe", "debug", "--data", "scenes:120", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *EVERYTHING, *more], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return read_log(out / "autoencoder-training")


@pytest.mark.dist
@pytest.mark.slow
def test_stage_one_does_not_depend_on_the_processes(tmp_path: Path) -> None:
    """The same losses from one process, from two with copies of the weights, and from two with half of them each."""
    one = log_of_stage_one(tmp_path / "one", 1, "--stage1.training.accumulate", "2")
    assert len(one) == 6
    assert {"discriminator_loss", "adaptive_weight", "vf_cosine", "align_patch"} <= one[-1].keys()
    for parallel in ("ddp", "fsdp"):
        two = log_of_stage_one(tmp_path / parallel, 2, "--stage1.training.parallel", parallel)
        for mine, theirs in zip(one, two, strict=True):
            assert mine.keys() == theirs.keys()
            for name in mine.keys() - {"seconds"}:
                assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=1e-5), (parallel, name, mine["step"])
        weights = [load_tensors(path / "autoencoder" / WEIGHTS) for path in (tmp_path / "one", tmp_path / parallel)]
        for name, tensor in weights[0].items():
            assert (tensor - weights[1][name]).abs().max() < 1e-3, name
