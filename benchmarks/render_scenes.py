"""Measure how fast scenes are rendered, beside the bar and beside rendering them one at a time in the same run.

    OMP_NUM_THREADS=1 python benchmarks/render_scenes.py [--count 1000] [--size 64]

The bar: 5,000 scenes of 64 x 64 pixels in 60 seconds on two CPU cores. Rounds of both ways alternate, so that other
work on the machine disturbs both alike; the fastest round of each counts. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable

import numpy as np

from reals.data.scenes import render

_BAR_IMAGES_PER_SECOND = 5000 / 60


def _one_by_one(indices: np.ndarray, size: int) -> None:
    for index in indices:
        render(np.array([index]), size)


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure how fast scenes are rendered.")
    parser.add_argument("--count", type=int, default=1000, help="scenes rendered together in a round")
    parser.add_argument("--size", type=int, default=64, help="pixels on a side")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    indices, few = np.arange(arguments.count), np.arange(max(10, arguments.count // 5))
    render(indices[:10], arguments.size)
    together, alone = [], []
    for _ in range(arguments.rounds):
        together.append(_seconds(lambda: render(indices, arguments.size)))
        alone.append(_seconds(lambda: _one_by_one(few, arguments.size)))
    wall, cpu = (min(column) for column in zip(*together, strict=True))
    wall_alone, cpu_alone = (min(column) for column in zip(*alone, strict=True))
    rate, rate_alone = len(indices) / wall, len(few) / wall_alone
    pixels_of_bar = (arguments.size / 64) ** 2
    report = {
        "size": arguments.size,
        "images_per_second": round(rate, 1),
        "seconds_for_5000": round(5000 / rate, 1),
        "cpu_seconds_for_5000": round(5000 * cpu / len(indices), 1),
        "times_the_bar_per_pixel": round(rate * pixels_of_bar / _BAR_IMAGES_PER_SECOND, 2),
        "one_by_one_images_per_second": round(rate_alone, 1),
        "one_by_one_cpu_seconds_for_5000": round(5000 * cpu_alone / len(few), 1),
        "times_one_by_one": round(rate / rate_alone, 2),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}",
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
