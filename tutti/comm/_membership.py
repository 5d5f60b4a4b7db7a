"""Which ranks of a run are still there, agreed upon by those that are.

All that have met so far notice a lost rank in the same collective call: the first one that it did not come to.  There
they regroup one by one.  The first to come writes down under a lock who is left, the others read it; a slow one that
finds a later generation than it expects has missed nothing, since no call of a generation ends without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tutti._arena import ShmLink

_RUN, _GENERATION, _HEAD = 0, 1, 8
_MEETINGS, _ALLOCATED, _FIRST = range(3)
"""Words of a table; from _FIRST on, for each rank, the generation that goes on without it, 0 while it is there."""


@dataclass(frozen=True)
class Generation:
    """What those that are left have agreed upon.

    Parameters
    ----------
    meetings, allocated : from which meeting and byte of memory they go on.
    dropped : for each rank of the run the first generation without it, 0 for those that are left.
    """

    meetings: int
    allocated: int
    dropped: tuple[int, ...]

    @property
    def left(self) -> list[int]:
        """The ranks that are left."""
        return [rank for rank, generation in enumerate(self.dropped) if not generation]


class Membership:
    """A rank's side of it; all ranks make one at the same time.

    Parameters
    ----------
    link : what the engine gave to this rank.
    """

    def __init__(self, link: ShmLink) -> None:
        self.link = link
        (self._lock,) = link.locks(1)
        words = link.allocate(8 * (_HEAD + 2 * (_FIRST + link.size))).view(np.int64)
        self._words = words[:_HEAD]
        self._tables = words[_HEAD : _HEAD + 2 * (_FIRST + link.size)].reshape(2, -1)
        self._generation = 0
        with self._lock:
            if self._words[_RUN] != link.board.run:
                words[:] = 0
                self._words[_RUN] = link.board.run

    def regroup(self, meetings: int, allocated: int) -> Generation:
        """Return the generation that follows the one of this rank, or the latest.

        Parameters
        ----------
        meetings, allocated : this rank's count of meetings, the one included that a lost rank did not come to, and
            the memory that it has asked for.
        """
        with self._lock:
            if self._words[_GENERATION] == self._generation:
                self._follow(meetings, allocated)
            self._generation = int(self._words[_GENERATION])
            found = self._tables[self._generation & 1].tolist()
        return Generation(found[_MEETINGS], found[_ALLOCATED], tuple(found[_FIRST:]))

    def _follow(self, meetings: int, allocated: int) -> None:
        """Write down the next generation; its number comes last, for who writes it may be lost, too.

        One meeting is left out: who is one behind still reads the records of the one before, which lie where those of
        the next but one will.
        """
        number = self._generation + 1
        before, table = self._tables[self._generation & 1], self._tables[number & 1]
        table[:] = before
        table[_MEETINGS], table[_ALLOCATED] = meetings + 1, allocated
        for rank in range(self.link.size):
            if not table[_FIRST + rank] and self.link.board.lost(rank):
                table[_FIRST + rank] = number
        self._words[_GENERATION] = number
