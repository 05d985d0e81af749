"""The sweep tool: every point from one start, on photos that the recipe's own run does not hold out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reals.data.split import is_held_out
from reals.data.store import ImageStore
from reals.recipes.presets import preset
from reals.runtime.io import load_tensors, read_json

TOOL = Path(__file__).parents[2] / "tools" / "sweep.py"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.slow
def test_points_share_a_start_and_are_analysed_together(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    command = [sys.executable, str(TOOL), "scenes:150", str(out), "--recipe", "debug", "--channels", "3"]
    command += ["--align", "0", "0.5", "--kl", "2e-5", "1e-3", "--steps", "2", "--images", "12"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    store, fraction = ImageStore(out / "images"), preset("debug").data.held_out_fraction
    assert not any(is_held_out(key, fraction) for key in store.keys)
    assert len(store.held_out) > 0
    points = sorted(path for path in out.iterdir() if path.name.startswith("channels-"))
    assert len(points) == 4
    weights = [load_tensors(path / "autoencoder" / WEIGHTS)["encoder.conv_in.weight"] for path in points]
    assert not any((one == other).all() for i, one in enumerate(weights) for other in weights[:i])
    found = read_json(out / "analysis" / "analysis.json")
    settings = {(space["settings"]["kl"], space["settings"]["align"]) for space in found["spaces"]}
    assert settings == {(2e-5, 0.0), (2e-5, 0.5), (1e-3, 0.0), (1e-3, 0.5)}
    assert {space["channels"] for space in found["spaces"]} == {3}
