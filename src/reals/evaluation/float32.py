"""True float32 arithmetic, whatever shortcuts the process has allowed for training."""

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
