"""How many threads of the processor small steps use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread.

    A decomposition of a small matrix is thousands of steps of microseconds, at each of which all threads wait for the
    last. Two threads on two free cores gain little; where another program has one of them, every step waits for it
    (``benchmarks/eigenvalues.py``).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
