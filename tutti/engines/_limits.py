"""Native thread pools are held at one thread while threads of ours compute, and given back exactly as they were.

An idle pool spins and steals the core of a rank; and sums of several threads would depend on the machine.  Finding the
pools takes milliseconds, so it is repeated only when the process has loaded a library since.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any


class _PhdrInfo(ctypes.Structure):
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("phdr", ctypes.c_void_p),
        ("phnum", ctypes.c_uint16),
        ("adds", ctypes.c_ulonglong),
    )


_lock = threading.Lock()
_depth = 0
_restore: list[tuple[Any, int]] = []
_found: tuple[int, list[Any]] | None = None
_seen: list[int] = []
_walk = getattr(ctypes.CDLL(None), "dl_iterate_phdr", None)


def _note(info: Any, size: int, data: Any) -> int:
    _seen.append(info.contents.adds)
    return 1  # the counter is the same for every library: one is enough


_first = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_PhdrInfo), ctypes.c_size_t, ctypes.c_void_p)(_note)


def _libraries_loaded() -> int:
    """Number of libraries the process has loaded so far; -1 where the system cannot tell."""
    if _walk is None:
        return -1
    _seen.clear()
    _walk(_first, None)
    return _seen[-1] if _seen else -1


def _pools() -> list[Any]:
    global _found
    loaded = _libraries_loaded()
    if _found is None or loaded < 0 or _found[0] != loaded:
        from threadpoolctl import ThreadpoolController

        pools = list(ThreadpoolController().lib_controllers)
        _found = (_libraries_loaded(), pools)
    return _found[1]


def _of_the_process(pool: Any) -> bool:
    """OpenMP counts its threads per calling thread; the other pools have one number per process."""
    return bool(pool.user_api != "openmp")


class one_thread:
    """Context in which the pools of the process have one thread; contexts may overlap, the last one restores."""

    def __enter__(self) -> None:
        global _depth
        with _lock:
            _depth += 1
            if _depth == 1:
                _restore.extend((pool, pool.get_num_threads()) for pool in _pools() if _of_the_process(pool))
                for pool, n_threads in _restore:
                    if n_threads != 1:
                        pool.set_num_threads(1)

    def __exit__(self, *exc: object) -> None:
        global _depth
        with _lock:
            _depth -= 1
            if _depth == 0:
                for pool, n_threads in _restore:
                    if n_threads != 1:
                        pool.set_num_threads(n_threads)
                _restore.clear()


class one_openmp_thread:
    """Context, inside `one_thread`, in which OpenMP regions begun by the calling thread have one thread."""

    def __enter__(self) -> None:
        pools = _found[1] if _found is not None else []
        self._restore = [(pool, pool.get_num_threads()) for pool in pools if not _of_the_process(pool)]
        for pool, _ in self._restore:
            pool.set_num_threads(1)

    def __exit__(self, *exc: object) -> None:
        for pool, n_threads in self._restore:
            pool.set_num_threads(n_threads)
