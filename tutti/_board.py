"""The words of a run: a few integers per rank in memory that all ranks and their engine see.

Ranks write what they do (arrived at a barrier, which step, finished), the engine writes that the run is aborted; so a
dead rank's last step can still be read, and waking everybody needs no message.  Each word has exactly one writer.
"""

from __future__ import annotations

import time

RECORD = 8  # words that describe a collective call; two records per rank, used in turn

_ABORT, _RUN = 0, 1
_LINE = 4 * 8  # words per rank: whole cache lines, so that a spinning rank disturbs no other
_FIRST = 8  # the first line belongs to the engine

ARRIVED, STEP, BEAT, WAITING, FINISHED = range(5)
_RECORDS = 8


class Board:
    """Words over a memoryview of format "q"; ``line(rank)`` is where the words of a rank begin.

    Parameters
    ----------
    words : memoryview("q") of at least ``n_words(size)`` items, zeroed by the engine before the run.
    size : number of ranks.
    """

    def __init__(self, words: memoryview, size: int) -> None:
        self.words, self.size = words, size

    @staticmethod
    def n_words(size: int) -> int:
        return _FIRST + _LINE * size

    @staticmethod
    def line(rank: int) -> int:
        return _FIRST + _LINE * rank

    @property
    def run(self) -> int:
        """A number no earlier run on the same memory had."""
        return self.words[_RUN]

    def clear(self) -> None:
        """Make ready for a new run; step -1 is "before the first"."""
        for i in range(self.n_words(self.size)):
            self.words[i] = 0
        self.words[_RUN] = time.time_ns()
        for rank in range(self.size):
            self.words[self.line(rank) + STEP] = -1

    def abort(self) -> None:
        self.words[_ABORT] = 1

    def aborted(self) -> bool:
        return self.words[_ABORT] != 0

    def get(self, rank: int, word: int) -> int:
        return self.words[self.line(rank) + word]

    def set(self, rank: int, word: int, value: int) -> None:
        self.words[self.line(rank) + word] = value

    def record(self, rank: int, turn: int) -> memoryview:
        """Return the words that describe call number ``turn`` of ``rank``; they alternate, so that a rank that is one
        barrier ahead does not overwrite what a slower one still reads."""
        start = self.line(rank) + _RECORDS + RECORD * (turn & 1)
        return self.words[start : start + RECORD]
