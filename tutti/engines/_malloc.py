"""Memory of a worker process: kept from step to step, given back after the run.

The C library maps every large block anew and unmaps it when it is freed, so a step that makes the same temporaries
again pays for every page again (measured: a convolutional net 1.4x slower).  Only worker processes are changed, whose
memory is ours to manage; elsewhere than in glibc nothing happens.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_memory() -> None:
    """Take large blocks from the heap, and let the heap grow in large pieces and not shrink by itself."""
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    if setting is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26)):
            setting(option, value)


def give_back_memory() -> None:
    """Return what is free to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
