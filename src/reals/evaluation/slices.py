"""Rows of an array in blocks, so that no copy or intermediate result holds all of them."""

from collections.abc import Iterator


def slices(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    """Yield slices of ``step`` rows, the last perhaps shorter, that cover ``start`` up to, not including, ``stop``."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))
