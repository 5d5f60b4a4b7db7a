"""Native thread pools are held at one thread while threads of ours compute, and given back exactly as they were.

An idle pool spins and steals the core of a rank; and sums of several threads would depend on the machine.  Finding the
pools takes milliseconds, so it is repeated only when a module has been imported since: libraries come with modules.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

_SET_BY_IMPORT = "KMP_DUPLICATE_LIB_OK"

_lock = threading.Lock()
_depth = 0
_restore: list[tuple[Any, int]] = []
_found: tuple[int, list[Any]] | None = None


def _pools() -> list[Any]:
    global _found
    if _found is None or _found[0] != len(sys.modules):
        pools = list(controller().lib_controllers)
        _found = (len(sys.modules), pools)
    return _found[1]


def controller() -> Any:
    """Return a fresh ThreadpoolController; importing threadpoolctl sets a variable for others, which is taken back."""
    takes_back = "threadpoolctl" not in sys.modules and _SET_BY_IMPORT not in os.environ
    from threadpoolctl import ThreadpoolController

    if takes_back:
        os.environ.pop(_SET_BY_IMPORT, None)
    return ThreadpoolController()


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


def _after_fork() -> None:
    """In a forked child no run goes on, and the lock may have been held by a thread that is not there."""
    global _lock, _depth
    _lock, _depth = threading.Lock(), 0
    for pool, n_threads in _restore:
        pool.set_num_threads(n_threads)
    _restore.clear()


os.register_at_fork(after_in_child=_after_fork)
