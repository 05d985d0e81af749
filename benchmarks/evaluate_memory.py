"""How much memory and time ``reals evaluate`` takes at a published count of images, against the images' own size.

``python benchmarks/evaluate_memory.py [COUNT] [DIRECTORY]`` writes two batches of COUNT noise images of 256 x 256, by
default 50,000, below DIRECTORY (20 GB, deleted afterwards), measures all that FID's network gives and ``--more``, and
prints JSON. A projection of some pixels takes the place of the network, with as many features: a CPU would take hours
for the real one, whose own memory is that of one batch. Elapsed time.
"""

import json
import os
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from reals.apps.evaluate import Extras, evaluate
from reals.evaluation.inception import InceptionFeatures
from reals.models.inception import POOL_DIMENSION

_SIDE = 256
_PIXELS = 64
_BLOCK = 500


class Projection(InceptionFeatures):
    """Random projections of a few pixels, non-negative, of the dimensions of FID's network."""

    def __init__(self):
        self.fingerprint, self.published = "projection", False
        rng = np.random.default_rng(0)
        self._projection = rng.normal(size=(_PIXELS, self.dimension)).astype(np.float32) / 8
        self._classes = rng.normal(size=(POOL_DIMENSION, 1008)).astype(np.float32) / 30

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Project the first pixels of each image."""
        flat = images.reshape(len(images), -1)[:, :_PIXELS].astype(np.float32) / 128 - 1
        return np.maximum(flat @ self._projection, 0)

    def probabilities(self, pool: np.ndarray) -> np.ndarray:
        """Return a softmax of random classes."""
        exponentials = np.exp(pool @ self._classes)
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def write_batch(path: Path, count: int, seed: int) -> None:
    """Write noise images in ADM's layout, a block at a time."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (_BLOCK, _SIDE, _SIDE, 3), dtype=np.uint8)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as entry,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, _SIDE, _SIDE, 3)}
        np.lib.format.write_array_header_1_0(entry, header)
        for start in range(0, count, _BLOCK):
            block = noise[: min(_BLOCK, count - start)]
            # What the projection sees is new in each block; the rest need not be.
            block[:, 0, :_PIXELS] = rng.integers(0, 256, (len(block), _PIXELS, 3), dtype=np.uint8)
            entry.write(block.tobytes())


def peak() -> float:
    """Return the most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int, directory: Path) -> None:
    """Write, evaluate, print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Projection()
    with tempfile.TemporaryDirectory(dir=directory) as name:
        batches = [Path(name) / f"{role}.npz" for role in ("reference", "samples")]
        for seed, path in enumerate(batches):
            write_batch(path, count, seed)
        before, started = peak(), time.monotonic()
        extras = Extras(more=True)
        result = evaluate(str(batches[0]), str(batches[1]), network=network, extras=extras, device=device)
        seconds = time.monotonic() - started
    images = 2 * count * _SIDE * _SIDE * 3 / 2**20
    features = 2 * count * network.dimension * 4 / 2**20
    beyond = peak() - before
    print(
        json.dumps(
            {
                "what": f"reals evaluate --more, {count} against {count} images of {_SIDE} x {_SIDE}, on {device.type}",
                "metrics": list(result["metrics"]),
                "seconds": round(seconds),
                "megabytes_of_images": round(images),
                "megabytes_of_features": round(features),
                "megabytes_at_most_beyond_the_start": round(beyond),
                "share_of_the_images": beyond / images,
                "torch": torch.__version__,
                "cores": os.cpu_count(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 50_000,
        Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir()),
    )
