"""Loading by all cores, somewhat ahead of whoever uses what is loaded."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from reals.runtime import dist

Item = TypeVar("Item")


def cores() -> int:
    """Return how many threads may decode at once; reading and decoding release the interpreter's lock.

    The processes that a launcher starts on a machine share its cores.
    """
    # From Python 3.13 on, the count respects affinity.
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return max(1, count // dist.local_world_size())


def load_ahead(load: Callable[[int], Item], indices: Iterable[int], ahead: int) -> Iterator[Item]:
    """Yield ``load(index)`` for each of ``indices``, in order, while threads load up to ``ahead`` more.

    What ``load`` raises is raised where its item would have been yielded.
    """
    pool = ThreadPoolExecutor(cores())
    coming: deque[Future[Item]] = deque()
    try:
        for index in indices:
            coming.append(pool.submit(load, index))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
