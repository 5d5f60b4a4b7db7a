"""Kernels that only kernels call are compiled without their ways in from Python and from C.

Those cost as much to compile as a kernel of some twenty arrays itself, once for each combination of types, before the
first fit on a machine begins.  Nothing but a kernel may call such a function: there is no code that would check it.
"""

from __future__ import annotations

from typing import Any

from numba import njit


def inner(**options: Any) -> Any:
    """Return the decorator of a kernel that is called by kernels only; ``options`` of numba's ``njit``."""
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # which numba's own types leave out
    if "fastmath" in options:
        # there must not be two translations of it: a process that compiles and one that loads would call either, and
        # fast arithmetic may end in other bits
        options["forceinline"] = True
    return njit(cache=True, nogil=True, **options)
