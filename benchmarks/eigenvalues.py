"""Decompositions of symmetric matrices on one thread and on all, on a free machine and beside a busy core.

``python benchmarks/eigenvalues.py`` prints JSON: milliseconds in float64, and the ratio of all threads to one. Another
process that only counts keeps one core busy. Elapsed time.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from reals.runtime.threads import one_thread

_SECONDS = 2.0
_BUSY = [sys.executable, "-c", "while True: pass"]


def milliseconds(step: Callable[[], object]) -> float:
    """Return the mean over at least three repetitions and ``_SECONDS``."""
    step()
    started, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - started < _SECONDS:
        step()
        count += 1
    return 1000 * (time.perf_counter() - started) / count


def measure(dimension: int) -> dict[str, dict[str, float]]:
    """Measure eigenvalues, and eigenvectors with them."""
    rows = torch.randn(2 * dimension, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, found = rows.T @ rows, {}
    for name, decompose in (("eigenvalues", torch.linalg.eigvalsh), ("eigenvectors", torch.linalg.eigh)):
        times = {}
        for threads, limited in (("all", nullcontext()), ("one", one_thread())):
            with limited:
                times[threads] = milliseconds(lambda decompose=decompose: decompose(matrix))
        found[name] = times | {"ratio": times["all"] / times["one"]}
    return found


def main() -> None:
    """Measure alone, then beside a busy core."""
    result: dict[str, object] = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    result["alone"] = {str(dimension): measure(dimension) for dimension in (320, 2048)}
    busy = subprocess.Popen(_BUSY)
    try:
        result["beside_a_busy_core"] = {str(dimension): measure(dimension) for dimension in (320, 2048)}
    finally:
        busy.kill()
    print(json.dumps(result | {"torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
