"""Shards claimed at run time: a rank that is free takes work that a slower one has not begun.

Shards are dealt in advance, and every rank begins with its own.  Who has finished takes over what another rank would
finish later than itself; a rank that is known to be slow leaves its last shards to the quickest one.  Which rank does
a shard changes no bit of it, so a slow worker is healed without a trace in the model (work stealing: Blumofe,
Leiserson 1999).

All is decided under one lock from words that all ranks see.  The pace of the ranks, ns a shard, is written between the
two barriers of a step only, so that all of them know the same in a step.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from tutti.types import Array

_BEGAN, _PACE, _LEFT, _DONE = range(4)  # words of a rank; it alone writes them
_LINE = 8
_SLOW = 1.5  # times the pace of the quickest: then the last shards are left to it
_SLOW_TOGETHER = 2.0  # the same where shards go together, and one by one costs more
_WORTH = 0.5  # of a shard's time that must be won by taking it over
_STEPS = 4  # whose best is the pace: who was held up once is not slow


class Claims:
    """Who works on which shard of a step.

    Parameters
    ----------
    words : (`n_words`,) int64 that all ranks see.
    lock : held while shards are taken.
    rank, size : this rank, of how many.
    own : shards that are dealt to it.   n_shards : of all ranks.
    """

    def __init__(
        self,
        words: Array,
        lock: AbstractContextManager[object],
        rank: int,
        size: int,
        own: Sequence[int],
        n_shards: int,
    ) -> None:
        self._lock, self._rank, self._size, self._own, self._n = lock, rank, size, own, n_shards
        view = words.data  # plain integers come out of it, faster than out of numpy
        self._taken, self._owner = view[:n_shards], view[n_shards : 2 * n_shards]
        self._lines = [view[2 * n_shards + r * _LINE :][:_LINE] for r in range(size)]
        for s in own:
            self._taken[s], self._owner[s] = 0, rank
        for i in range(_LINE):
            self._lines[rank][i] = 0
        self._step = 0
        self._owners: list[list[int]] = []
        self._paces: deque[float] = deque(maxlen=_STEPS)

    @staticmethod
    def n_words(size: int, n_shards: int) -> int:
        return 2 * n_shards + size * _LINE

    def step(self, together: bool) -> Iterator[list[int]]:
        """Yield what this rank works on in a step, until nothing is left to take.

        Parameters
        ----------
        together : own shards are worked on at once, which is cheaper, unless others may have to help.
        """
        self._step += 1
        spent, n = 0, 0
        if self._step == 1:  # the words of the others may not be there yet
            for s in self._own:
                self._taken[s] = 1
            began = time.perf_counter_ns()
            yield list(self._own)
            spent, n = time.perf_counter_ns() - began, len(self._own)
        else:
            paces = [line[_PACE] for line in self._lines]
            while mine := self._take(paces, together, first=n == 0):
                began = time.perf_counter_ns()
                yield mine
                spent, n = spent + time.perf_counter_ns() - began, n + len(mine)
        if n:
            self._paces.append(spent / n)

    def publish(self) -> None:
        """Say how fast this rank is; between the two barriers of a step."""
        self._lines[self._rank][_PACE] = max(int(min(self._paces, default=1)), 1)

    def _left(self, shards: Sequence[int]) -> list[int]:
        return [s for s in shards if self._taken[s] < self._step]

    def _take(self, paces: list[int], together: bool, first: bool) -> list[int]:
        if not self._left(range(self._n)):
            return []  # seen without the lock: what was taken stays so
        with self._lock:
            now = time.perf_counter_ns()
            own = self._left(self._own)
            chosen = self._of_own(own, paces, together, first) if own else self._of_others(now, paces)
            for s in chosen:
                self._taken[s] = self._step
            self._lines[self._rank][_BEGAN if chosen else _DONE] = now if chosen else self._step
            return chosen

    def _of_own(self, own: list[int], paces: list[int], together: bool, first: bool) -> list[int]:
        quickest, pace = min(paces), paces[self._rank]
        if pace <= (_SLOW_TOGETHER if together else _SLOW) * quickest:
            return own if together else own[:1]
        left = len(self._left(range(self._n)))
        helper = self._lines[paces.index(quickest)]
        if not first and pace > quickest * left and helper[_DONE] < self._step:
            self._lines[self._rank][_LEFT] = self._step  # the quickest is still at work, and takes what is left
            return []
        return own[:1]

    def _of_others(self, now: int, paces: list[int]) -> list[int]:
        """Return the last shard of the rank that gains most, if it gains enough."""
        if not self._owners:
            self._owners = [[s for s in range(self._n) if self._owner[s] == rank] for rank in range(self._size)]
        pace, best, found = paces[self._rank], _WORTH, -1
        for rank, line in enumerate(self._lines):
            rest = self._left(self._owners[rank])
            if rank == self._rank or not rest:
                continue
            if line[_LEFT] == self._step:
                gain = math.inf if pace <= _SLOW * min(paces) else 0.0
            else:
                gain = (line[_BEGAN] + (1 + len(rest)) * paces[rank] - now) / pace - 1
            if gain > best:
                best, found = gain, rest[-1]
        return [found] if found >= 0 else []
