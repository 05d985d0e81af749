"""Feature extraction by FID's network against what the machine's matrix products would allow, in one run.

``python benchmarks/inception.py [DEVICE]`` prints JSON. The limit is the rate of large float32 matrix products,
measured beside it, over the network's floating-point operations, which torch counts. Weights are random: speed does
not depend on them. Processor time and one thread on a CPU, elapsed time on a GPU; best of four.
"""

import json
import os
import platform
import sys
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from reals.evaluation.float32 import true_float32
from reals.evaluation.inception import InceptionFeatures
from reals.models.inception import InceptionNetwork
from reals.runtime.memory import keep_freed_memory

_ROUNDS = 4
_SIDE = 256
_PRODUCTS = 8


def network() -> InceptionNetwork:
    """Build the network with random weights."""
    with torch.device("meta"):
        shapes = InceptionNetwork.__new__(InceptionNetwork)
        torch.nn.Module.__init__(shapes)
        shapes._make_layers()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(tensor.shape, generator=generator) * 0.05 + 0.01 if tensor.is_floating_point() else tensor
        for name, tensor in shapes.state_dict().items()
    }
    state |= {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    return InceptionNetwork(state, "random")


class Clock:
    """Seconds of work on a device."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"

    def __call__(self) -> float:
        """Return the time, after the device has finished."""
        if self._cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def main(device: torch.device) -> None:
    """Alternate the two and keep the best of each, so that other load on the machine hits both."""
    keep_freed_memory()
    torch.set_num_threads(1)
    batch, side, layout = (256, 8192, "GPU") if device.type == "cuda" else (16, 2048, "one thread")
    moved = network().to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    features = InceptionFeatures(moved, device, published=False)
    images = np.random.default_rng(0).integers(0, 256, (batch, _SIDE, _SIDE, 3), dtype=np.uint8)
    with FlopCounterMode(display=False) as counter:
        features(images[:1])
    operations = counter.get_total_flops()
    a, b = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    clock, best = Clock(device), {"features": float("inf"), "product": float("inf")}
    for _ in range(_ROUNDS):
        started = clock()
        features(images)
        best["features"] = min(best["features"], clock() - started)
        # As often as makes its share of the time about equal: the best of few would understate the limit.
        for _ in range(_PRODUCTS):
            with true_float32():
                started = clock()
                torch.mm(a, b)
                best["product"] = min(best["product"], clock() - started)
    peak, rate = 2 * side**3 / best["product"], batch / best["features"]
    result = {
        "what": f"FID Inception features of {_SIDE} x {_SIDE} images, float32, {layout}, batches of {batch}",
        "images_per_second": rate,
        "operations_per_image": operations,
        "matrix_product_operations_per_second": peak,
        "limit_images_per_second": peak / operations,
        "share_of_limit": rate * operations / peak,
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu"))
