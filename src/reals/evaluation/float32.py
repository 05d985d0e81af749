"""Arithmetic as measurements need it: true float32, whatever training has allowed, and float64 where there is one.

PyTorch's settings are the whole process's. Those that lower precision are made for one product, by one thread at once.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any

import torch

ALONE = threading.RLock()
"""Held while products are coarse; whoever holds it knows that no other thread makes them so."""


@contextmanager
def true_float32() -> Iterator[None]:
    """Run convolutions and matrix products of float32 in float32: neither TF32 nor bfloat16 stands in for it.

    cuDNN uses TF32 for convolutions unless told otherwise, which moves features by a thousandth. It stays as it is
    otherwise: ``torch.backends.cudnn.flags`` switches all of it off unless told not to.
    """
    with ALONE:
        restore = _settings()
        if _allowed(torch.get_float32_matmul_precision) is not None:
            torch.set_float32_matmul_precision("highest")
        if _allowed(_tf32_convolutions) is not None:
            torch.backends.cudnn.allow_tf32 = False
        for one in _operations():
            if one.fp32_precision in ("tf32", "bf16"):
                one.fp32_precision = "ieee"
    try:
        yield
    finally:
        with ALONE:
            restore()


def float64_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 what lies on ``device``: there, or on the CPU, as Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def coarse_products() -> Iterator[None]:
    """Let a CPU round what matrix products of float32 multiply to bfloat16; sums stay float32.

    Other threads' products are rounded as well meanwhile, unless they hold :data:`ALONE`.
    """
    with ALONE:
        restore = _settings()
        try:
            if _allowed(torch.get_float32_matmul_precision) is not None:
                torch.set_float32_matmul_precision("medium")
            else:
                torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # pyright: ignore[reportAttributeAccessIssue]
            yield
        finally:
            restore()


def _settings() -> Callable[[], None]:
    """Return what puts the present settings back."""
    steps: list[Callable[[], None]] = []
    if (precision := _allowed(torch.get_float32_matmul_precision)) is not None:
        steps.append(partial(torch.set_float32_matmul_precision, precision))
    if (tf32 := _allowed(_tf32_convolutions)) is not None:
        steps.append(partial(setattr, torch.backends.cudnn, "allow_tf32", tf32))
    # Last, for the steps above name several operations at once.
    steps += [partial(setattr, one, "fp32_precision", one.fp32_precision) for one in _operations()]

    def restore() -> None:
        for step in steps:
            step()

    return restore


def _allowed(read: Callable[[], Any]) -> Any:
    """Return a setting; None where a program has set operations singly, as PyTorch 2.9 and later prefer: it refuses."""
    with suppress(RuntimeError):
        return read()
    return None


def _tf32_convolutions() -> bool:
    return torch.backends.cudnn.allow_tf32


def _operations() -> list[Any]:
    """Return what has a precision of its own; nothing before PyTorch 2.9."""
    cpu, convolutions = torch.backends.mkldnn, torch.backends.cudnn
    places = (
        (torch.backends.cuda, "matmul"),
        (cpu, "matmul"),
        (cpu, "conv"),
        (convolutions, "conv"),
        (convolutions, "rnn"),
    )
    found = [getattr(module, name, None) for module, name in places]
    return [operation for operation in found if hasattr(operation, "fp32_precision")]


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
