"""Advice to the C library's allocator, which otherwise returns every large activation to the system and asks again."""

import ctypes
import sys

# Parameter numbers of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_GROW_BY_BYTES = 256 * 1024 * 1024

# Of images that pass an autoencoder without gradients together: 32 of 256 x 256 pixels. SD-VAE then holds about a
# gigabyte for each of its widest activations.
_PIXELS_AT_ONCE = 2**21


def images_at_once(side: int, most: int) -> int:
    """Return how many square images to hold as activations together: ``most``, or fewer where they are large."""
    return max(1, min(most, _PIXELS_AT_ONCE // side**2))


def keep_freed_memory() -> bool:
    """Make freed memory stay with the process, so that CPU networks do not page-fault on each activation.

    By default glibc serves blocks above some size by ``mmap`` and unmaps them when freed; a network that allocates the
    same activations each step then pays for zeroed pages each step. The process's footprint stays at its peak.

    Call it before the first large allocation. Returns whether it took effect: only with glibc on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # -1 switches trimming off; mmap is never used; the heap grows in large pieces.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _GROW_BY_BYTES))
    return all([library.mallopt(parameter, value) == 1 for parameter, value in settings])
