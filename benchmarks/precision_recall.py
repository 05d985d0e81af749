"""Precision and recall: ours against the formulation as it is usually written in NumPy, in one run.

``python benchmarks/precision_recall.py [ITEMS]`` prints JSON, by default for 10,000 reference and 10,000 sample
features of 2048 dimensions: ours as it runs here, ours with float32 products only (the same where coarser ones do not
pay), NumPy's. Each runs alone in a process of its own, so that peaks of memory are its own; memory is what the process
held at most beyond the features. All have the allocator setting that the program has. Processor time, one thread, best
of three. Linux only.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reals.evaluation import distances, neighbours, pairs
from reals.evaluation import precision_recall as ours
from reals.evaluation.float32 import coarse_products_are_faster
from reals.runtime.memory import keep_freed_memory

_ITEMS = 10_000
_DIMENSION = 2048
_ROUNDS = 3
ROLES = ("reference", "samples")
CONTESTANTS = ("ours", "ours_in_float32", "straightforward")


def features(items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 features of 40 effective dimensions, non-negative as after a ReLU, so that balls overlap."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, _DIMENSION)).astype(np.float32) / 6

    def draw(scale: float) -> np.ndarray:
        latents = rng.normal(size=(items, 40)).astype(np.float32) * scale
        return np.maximum(latents @ mixing, 0) + 0.02 * rng.random((items, _DIMENSION), dtype=np.float32)

    return draw(1.0), draw(0.95)


def straightforward(reference: np.ndarray, samples: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Return precision and recall from whole matrices of squared distances in float64."""
    a, b = reference.astype(np.float64), samples.astype(np.float64)

    def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum((x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1), 0)

    radius_a = np.partition(squared(a, a), neighbours, axis=1)[:, neighbours]
    radius_b = np.partition(squared(b, b), neighbours, axis=1)[:, neighbours]
    across = squared(b, a)
    return float((across <= radius_a).any(axis=1).mean()), float((across <= radius_b[:, None]).any(axis=0).mean())


def start_of_peak() -> int:
    """Forget the most memory held so far, and return what is held now, in kilobytes; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def count_decided() -> list[int]:
    """Return a list that will hold how many pairs are decided by their differences, block after block."""
    counts, exact = [], distances.exact_distances

    def counted(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found = exact(one, other)
        counts.append(found.numel())
        return found

    neighbours.exact_distances = pairs.exact_distances = counted
    return counts


def run_alone(name: str, directory: str) -> None:
    """Measure one of them in this process and print it as JSON."""
    keep_freed_memory()
    torch.set_num_threads(1)
    if name == "ours_in_float32":
        ours.coarse_pays = lambda *sets: False
    # From files, so that no memory is left over from making them.
    reference, samples = (np.load(Path(directory) / f"{role}.npy") for role in ROLES)
    warm = features(64)
    ours.precision_recall(*warm)
    straightforward(*warm)
    decided = count_decided()
    before = start_of_peak()
    with threadpool_limits(1):
        started = time.process_time()
        if name == "straightforward":
            values = straightforward(reference, samples)
        else:
            found = ours.precision_recall(reference, samples)
            values = found.precision, found.recall
        spent = time.process_time() - started
    megabytes = (_memory("VmHWM") - before) / 1024
    print(json.dumps({"seconds": spent, "megabytes": megabytes, "values": values, "decided": sum(decided)}))


def main(items: int) -> None:
    """Take turns and keep the best of each, so that other load on the machine hits all."""
    best: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as directory:
        for role, some in zip(ROLES, features(items), strict=True):
            np.save(Path(directory) / f"{role}.npy", some)
        for _ in range(_ROUNDS):
            for name in CONTESTANTS:
                command = [sys.executable, __file__, directory, name]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                best[name] = min(best.get(name, found), found, key=lambda one: one["seconds"])
    result = {
        "what": f"precision and recall, {items} against {items} features of {_DIMENSION} dimensions, one thread",
        "processor_seconds": {name: found["seconds"] for name, found in best.items()},
        "ratio": best["straightforward"]["seconds"] / best["ours"]["seconds"],
        "ratio_in_float32": best["straightforward"]["seconds"] / best["ours_in_float32"]["seconds"],
        # Of the pairs in a set, each counted once, and across.
        "share_decided_by_differences": best["ours"]["decided"] / (2.0 * items**2),
        "coarse_products_are_faster": coarse_products_are_faster(),
        "megabytes_beyond_the_features": {name: found["megabytes"] for name, found in best.items()},
        "memory_ratio": best["straightforward"]["megabytes"] / max(best["ours"]["megabytes"], 1.0),
        "precision_and_recall": {name: found["values"] for name, found in best.items()},
        "numpy": np.__version__,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run_alone(sys.argv[2], sys.argv[1])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else _ITEMS)
