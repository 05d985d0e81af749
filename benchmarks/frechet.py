"""Fréchet distance at 2048 dimensions: ours against the general matrix root that the ADM evaluator takes, in one run.

``python benchmarks/frechet.py`` prints JSON; ``ratio`` above 1 means that ours is faster. Full-rank covariances, as of
50,000 images. Processor time, one thread, best of three.
"""

import json
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import scipy
import scipy.linalg
from threadpoolctl import threadpool_limits

from reals.evaluation.frechet import GaussianStatistics, frechet_distance

_DIMENSION = 2048
_ROUNDS = 3


def make(seed: int) -> GaussianStatistics:
    """Return a Gaussian whose covariance's eigenvalues fall over four decades, as those of Inception features do."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2 * _DIMENSION, _DIMENSION)) * np.logspace(0, -2, _DIMENSION)
    mixed = rows @ (rng.normal(size=(_DIMENSION, _DIMENSION)) / _DIMENSION**0.5)
    return GaussianStatistics(mixed.mean(0), np.cov(mixed, rowvar=False), len(rows))


def by_matrix_root(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Return the distance by the formula as it is usually written."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root).real)


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    """Return processor seconds and the result."""
    started = time.process_time()
    value = run()
    return time.process_time() - started, value


def main() -> None:
    """Alternate the two and keep the best of each, so that other load on the machine hits both."""
    a, b = make(0), make(1)
    best: dict[str, tuple[float, float]] = {}
    with threadpool_limits(1):
        for _ in range(_ROUNDS):
            for name, run in (("ours", frechet_distance), ("matrix_root", by_matrix_root)):
                best[name] = min(best.get(name, (float("inf"), 0.0)), seconds(lambda run=run: run(a, b)))
    result = {
        "what": f"Fréchet distance of Gaussians of {_DIMENSION} dimensions, float64, one thread",
        "processor_seconds": {name: found[0] for name, found in best.items()},
        "ratio": best["matrix_root"][0] / best["ours"][0],
        "values": {name: found[1] for name, found in best.items()},
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
