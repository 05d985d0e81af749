"""The guides' Python runs as it is printed, top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.runs import reals

pytestmark = pytest.mark.slow

GUIDES = Path(__file__).parents[2] / "docs" / "guide"


@pytest.mark.parametrize("name", ["python-api.md", "extending.md", "exchange.md"])
def test_python_of_a_guide_runs(name: str, debug_run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "debug").symlink_to(debug_run, target_is_directory=True)
    if name == "exchange.md":
        autoencoder = debug_run / "aligned" / "autoencoder"
        assert reals("export", autoencoder, "--out", tmp_path / "vae-folded", "--normalisation", "folded") == 0
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    # Not in this process: its types are checked, which users' are not.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
