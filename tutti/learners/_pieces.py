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


def even(n: int, most: int = PIECE) -> int:
    """Return the rows of pieces of n rows, at most so many, with which two, four or eight threads end at the same time.

    There are 8 pieces or a multiple of 8, unless they would be smaller than an eighth of ``most``; what is shared by
    the rows of a piece is paid once for each, so they are large.

    Example
    -------
    >>> even(5000), even(300), even(10**6)
    (640, 160, 1024)
    """
    count = 8 * max(-(-n // (8 * most)), 1)
    while count > 1 and n < count * most // 8:
        count //= 2
    return 16 * max(-(-n // (16 * count)), 1)  # whole tiles of a matrix product


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
        """Call work(lo, hi) for every piece of n rows; whoever is free takes the next, until one fails."""
        count, taken, failed = -(-n // piece), itertools.count(), False

        def take() -> None:
            nonlocal failed
            while not failed and (i := next(taken)) < count:
                try:
                    work(i * piece, min((i + 1) * piece, n))
                except BaseException:
                    failed = True
                    raise

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
