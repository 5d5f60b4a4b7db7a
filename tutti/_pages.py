"""Memory that is given back to the system while the array that it belongs to is still there."""

from __future__ import annotations

import ctypes
import mmap
import sys

from tutti.types import Array

_DONT_NEED = 4  # Linux: pages of a private mapping hold zeros when they are next looked at


def give_back(memory: Array) -> None:
    """Give back the whole pages of ``memory``, which is private to this process and holds nothing that is read again.

    Parameters
    ----------
    memory : contiguous; what it holds afterwards is undefined.  Nothing happens where the system is not Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    start = memory.__array_interface__["data"][0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(_DONT_NEED))
