"""Shards claimed at run time: a rank that is free takes work that a slower one has not begun.

Shards are dealt in advance, and every rank begins with its own.  Who has finished takes over what another rank would
finish later than itself; a rank that is known to be slow leaves its last shards to the quickest one.  Which rank does
a shard changes no bit of it, so a slow worker is healed without a trace in the model (work stealing: Blumofe,
Leiserson 1999).

All is decided under one lock from words that all ranks see.  The pace of the ranks, ns a shard, is written between the
two barriers of a step only, so that all of them know the same in a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from tutti.types import Array

_BEGAN, _PACE, _LEFT, _DONE = range(4)  # words of a rank; it alone writes them
_LINE = 8
_SLOW = 1.5  # times the pace of the quickest: then shards are taken singly, so that others can help
_WORTH = 0.5  # of a shard's time that must be won by taking it over
_FRESH = 0.5  # weight of the last step in the pace


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
        self._lock, self._rank, self._own = lock, rank, own
        self._taken = words[:n_shards]
        self._owner = words[n_shards : 2 * n_shards]
        self._ranks = words[2 * n_shards :].reshape(size, _LINE)
        for s in own:
            self._taken[s], self._owner[s] = 0, rank
        self._ranks[rank] = 0
        self._step = 0
        self._pace = 0.0

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
            self._taken[list(self._own)] = 1
            began = time.perf_counter_ns()
            yield list(self._own)
            spent, n = time.perf_counter_ns() - began, len(self._own)
        else:
            paces = self._ranks[:, _PACE].tolist()
            while mine := self._take(paces, together, first=n == 0):
                began = time.perf_counter_ns()
                yield mine
                spent, n = spent + time.perf_counter_ns() - began, n + len(mine)
        if n:
            self._pace = spent / n if self._step <= 2 else self._pace + _FRESH * (spent / n - self._pace)

    def publish(self) -> None:
        """Say how fast this rank is; between the two barriers of a step."""
        self._ranks[self._rank, _PACE] = max(int(self._pace), 1)

    def _take(self, paces: list[int], together: bool, first: bool) -> list[int]:
        with self._lock:
            now = time.perf_counter_ns()
            own = [s for s in self._own if self._taken[s] < self._step]
            chosen = self._of_own(own, paces, together, first) if own else self._of_others(now, paces)
            self._taken[chosen] = self._step
            self._ranks[self._rank, _BEGAN if chosen else _DONE] = now if chosen else self._step
            return chosen

    def _of_own(self, own: list[int], paces: list[int], together: bool, first: bool) -> list[int]:
        quickest, pace = min(paces), paces[self._rank]
        if pace <= _SLOW * quickest:
            return own if together else own[:1]
        left = int((self._taken < self._step).sum())
        helper = self._ranks[paces.index(quickest)]
        if not first and pace > quickest * left and helper[_DONE] < self._step:
            self._ranks[self._rank, _LEFT] = self._step  # the quickest is still at work, and takes what is left
            return []
        return own[:1]

    def _of_others(self, now: int, paces: list[int]) -> list[int]:
        """Return the last shard of the rank that gains most, if it gains enough."""
        pace, best, found = paces[self._rank], _WORTH, -1
        for rank, line in enumerate(self._ranks):
            rest = np.flatnonzero((self._owner == rank) & (self._taken < self._step))
            if rank == self._rank or not len(rest):
                continue
            if line[_LEFT] == self._step:
                gain = np.inf if pace <= _SLOW * min(paces) else 0.0
            else:
                gain = (line[_BEGAN] + (1 + len(rest)) * paces[rank] - now) / pace - 1
            if gain > best:
                best, found = gain, int(rest[-1])
        return [found] if found >= 0 else []
