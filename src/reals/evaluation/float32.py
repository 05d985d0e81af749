"""Arithmetic as measurements need it: true float32, whatever training has allowed, and float64 where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def true_float32() -> Iterator[None]:
    """Run convolutions and matrix products of float32 in float32: neither TF32 nor bfloat16 stands in for it.

    cuDNN uses TF32 for convolutions unless told otherwise, which moves features by a thousandth.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def float64_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 what lies on ``device``: there, or on the CPU, as Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device
