"""A loop over rows in pieces of a fixed size, by as many threads as a task may use just now.

A piece is computed the same way by whichever thread takes it, and the pieces do not depend on how many threads there
are: so neither do the bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

PIECE = 1024  # rows; 512 kernel rows of a piece fit a core's cache


def alone() -> int:
    """Return 1: as many threads may be at work where nobody has a core to spare."""
    return 1


class Pieces:
    """Threads for the pieces of loops; none is started before it is needed, none is left after the ``with``.

    Parameters
    ----------
    hands : returns how many threads may be at work now, the caller's included.
    """

    def __init__(self, hands: Callable[[], int]) -> None:
        self._hands, self._room = hands, 0
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def each(self, work: Callable[[int, int], Any], n: int, piece: int = PIECE) -> None:
        """Call work(lo, hi) for every piece of n rows; whoever is free takes the next."""
        count, taken = -(-n // piece), itertools.count()

        def take() -> None:
            while (i := next(taken)) < count:
                work(i * piece, min((i + 1) * piece, n))

        more = min(self._hands(), count) - 1 if count > 1 else 0
        if more <= 0:
            take()
            return
        helpers = [self._threads(more).submit(take) for _ in range(more)]
        try:
            take()
        finally:
            for helper in helpers:
                helper.result()

    def _threads(self, n: int) -> ThreadPoolExecutor:
        if self._pool is None or self._room < n:
            self._close()
            self._pool, self._room = ThreadPoolExecutor(n, "tutti-piece"), n
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
