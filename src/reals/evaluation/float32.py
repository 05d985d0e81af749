"""Arithmetic as measurements need it: true float32, whatever training has allowed, and float64 where there is one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

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


@contextmanager
def coarse_products() -> Iterator[None]:
    """Let a CPU round what matrix products of float32 multiply to bfloat16; sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def coarse_products_are_faster() -> bool:
    """Measure on this CPU, in a few milliseconds, whether :func:`coarse_products` take at most two thirds of the time.

    They do where it multiplies bfloat16 itself, and are several times slower than float32 where it does not.
    """
    one, product = torch.ones(320, 2048), torch.empty(320, 320)
    seconds = {}
    for _ in range(3):
        for name, arithmetic in (("coarse", coarse_products), ("true", true_float32)):
            with arithmetic():
                started = time.perf_counter()
                torch.mm(one, one.T, out=product)
                spent = time.perf_counter() - started
            seconds[name] = min(spent, seconds.get(name, spent))
    return seconds["coarse"] < seconds["true"] / 1.5
