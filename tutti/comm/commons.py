"""Memory, locks and a bell for ranks of one host that each go at their own pace.

Who waits for something in common memory looks, lets others have the core for a moment, then sleeps in the kernel until
somebody rings.  It looks up now and then, for the abort word, for ranks that are gone and for a ring that was missed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tutti._board import FINISHED, WAITING, doze, rouse
from tutti.errors import Aborted
from tutti.protocols import Link
from tutti.types import Array

_YIELDS = 20
_LOOK_SECONDS = 0.05
_NAPS = (50e-6, 1e-3)  # first and longest, where the system has no way to wait for a word
_LINE = 8  # words, one cache line: the bell's, then one for each rank, which says in it that it sleeps


class Commons:
    """A `tutti.protocols.Commons`.

    Parameters
    ----------
    link : what the engine gave to this rank.   memory : returns so many bytes that all ranks see.
    """

    def __init__(self, link: Link, memory: Callable[[int], Array]) -> None:
        self._rank, self._size, self._board, self.memory = link.rank, link.size, link.board, memory
        self._locks = link.locks
        self.alone = link.transport == "threads"
        self._share: Any = getattr(link, "share", None) if self.alone else None
        self._yields = 0 if link.transport == "threads" else _YIELDS  # a thread would keep the interpreter
        self._words = memory(8 * _LINE * (1 + link.size)).view(np.int64).data
        self._mine = _LINE * (1 + link.rank)
        self._sleepers = [_LINE * (1 + rank) for rank in range(link.size) if rank != link.rank]
        self._words[self._mine] = 0
        self._fence = threading.Lock()
        self.waited, self.run = 0.0, link.board.run

    def locks(self, n: int) -> Sequence[AbstractContextManager[object]]:
        """Return ``n`` locks, the same ones to every rank if all ask in the same order."""
        return self._locks(n)

    def gone(self, rank: int) -> bool:
        """Tell whether a rank writes nothing any more."""
        return bool(self._board.get(rank, FINISHED)) or self._board.lost(rank)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make()`` returned to the first rank of this process that asked for ``name``; each asks once.

        Raises
        ------
        Aborted : it failed there.
        """
        if self._share is None:
            return make()
        lock, made = self._share(f"lock of {name}", threading.Lock), self._share(name, list[Any])
        with lock:
            first = not made
            made.append(None)  # one for each rank that has come
            if first:
                made[0] = (make(),)
            if made[0] is None:
                raise Aborted(f"rank {self._rank}: another rank failed at what only one does")
            (found,) = made[0]
            if len(made) == self._size:
                made[0] = None  # the run does not keep what nobody asks for any more
            return found

    def ring(self) -> None:
        """Have everybody who waits look again."""
        with self._fence:  # what was written before is seen by who hears it
            self._words[0] = (self._words[0] + 1) & 0x3FFFFFFF
        for sleeping in self._sleepers:
            if self._words[sleeping]:
                rouse(self._words, 0)
                return

    def wait(self, until: Callable[[], bool]) -> None:
        """Return when ``until()`` is true.

        Raises
        ------
        Aborted : the run was stopped.
        """
        words, began, yields, nap = self._words, time.perf_counter(), self._yields, _NAPS[0]
        self._board.set(self._rank, WAITING, 1)
        try:
            while True:
                heard = words[0]
                if until():
                    return
                if self._board.aborted():
                    raise Aborted(f"rank {self._rank}: the run was stopped while it waited")
                if yields > 0:
                    os.sched_yield()
                    yields -= 1
                elif not words[self._mine]:
                    words[self._mine] = 1  # and look again: who rings from now on wakes this rank
                    with self._fence:
                        pass
                elif not doze(words, 0, heard, _LOOK_SECONDS):
                    time.sleep(nap)
                    nap = min(nap * 1.2, _NAPS[1])
        finally:
            words[self._mine] = 0
            self._board.set(self._rank, WAITING, 0)
            self.waited += time.perf_counter() - began
