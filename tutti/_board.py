"""The words of a run: a few integers per rank in memory that all ranks and their engine see.

Ranks write what they do (arrived at a barrier, which step, finished), the engine writes that the run is aborted and
what became of a rank (FATE, LIFE); so a dead rank's last step can still be read, and waking everybody needs no message.
Each word has exactly one writer.

A rank may sleep in the kernel until a word changes (a futex, where the system has one): it says so in SLEEPING, so that
whoever changes a word makes a system call only if somebody sleeps.
"""

from __future__ import annotations

import errno
import functools
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

RECORD = 8  # words that describe a collective call; two records per rank, used in turn

_ABORT, _RUN = 0, 1
_LINE = 4 * 8  # words per rank: whole cache lines, so that a spinning rank disturbs no other
_FIRST = 8  # the first line belongs to the engine

ARRIVED, STEP, BEAT, WAITING, FINISHED, SLEEPING, FATE, LIFE = range(8)
RETURNED, LOST = 1, 2  # values of FATE: the caller has what the rank returned; the rank is gone and not started again
_RECORDS = 8

_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = 2**31 - 1


@functools.cache
def _futex() -> Callable[..., int] | None:
    """Return futex(address, operation, value, nanoseconds) -> 0 or more, or minus the errno; None where there is none.

    It looks at 32 bits, which on these machines are the low half of a word.
    """
    number = _FUTEX_CALL.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None or sys.byteorder != "little":
        return None
    import ctypes

    call: Any = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]

    def futex(address: int, operation: int, value: int, nanoseconds: int = 0) -> int:
        limit = (ctypes.c_long * 2)(*divmod(nanoseconds, 10**9))
        found: int = call(number, address, operation, value & 0xFFFFFFFF, limit)
        return found if found >= 0 else -ctypes.get_errno()

    probe = ctypes.c_int64()
    return futex if futex(ctypes.addressof(probe), _FUTEX_WAKE, 1) == 0 else None


class Board:
    """Words over a memoryview of format "q"; ``line(rank)`` is where the words of a rank begin.

    Parameters
    ----------
    words : memoryview("q") of at least ``n_words(size)`` items, zeroed by the engine before the run.
    size : number of ranks.
    """

    def __init__(self, words: memoryview, size: int) -> None:
        self.words, self.size = words, size
        self._sleeping = [self.line(rank) + SLEEPING for rank in range(size)]

    @staticmethod
    def n_words(size: int) -> int:
        return _FIRST + _LINE * size

    def line(self, rank: int) -> int:
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
        for rank in range(self.size):
            self.wake(rank)

    def finish(self, rank: int) -> None:
        """Say that ``rank`` has returned from its program."""
        self.set(rank, FINISHED, 1)
        self.wake(rank)

    def settle(self, rank: int, fate: int) -> None:
        """Say what became of ``rank``: RETURNED or LOST.  A lost rank has ended: it writes nothing any more."""
        self.set(rank, FATE, fate)
        self.wake(rank)

    def revive(self, rank: int) -> int:
        """Make ready for another process on the seat of ``rank``; return the number of its life."""
        self.wipe(rank)
        self.set(rank, FATE, 0)
        self.set(rank, LIFE, self.get(rank, LIFE) + 1)
        self.wake(rank)
        return self.get(rank, LIFE)

    def wipe(self, rank: int) -> None:
        """Forget what a process wrote that is gone, but for its last step."""
        for word in (BEAT, WAITING, SLEEPING, FINISHED):
            self.set(rank, word, 0)

    def lost(self, rank: int) -> bool:
        return self.get(rank, FATE) == LOST

    def returned(self, rank: int) -> bool:
        """True if the caller has what ``rank`` returned; nothing that happens to it now matters."""
        return self.get(rank, FATE) == RETURNED

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

    def sleep(self, rank: int, arrived: int, seconds: float) -> bool:
        """Sleep until ``rank``, which has arrived ``arrived`` times, arrives again or is woken, at most so long.

        The caller has set its own SLEEPING word before.  Returns False if this system cannot.
        """
        futex = _futex()
        if futex is None:
            return False
        came = futex(self._address(rank), _FUTEX_WAIT, arrived, int(seconds * 1e9))
        return came >= 0 or -came in (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR)

    def wake(self, rank: int) -> None:
        """Wake those who sleep until ``rank`` arrives."""
        words = self.words
        for sleeping in self._sleeping:
            if words[sleeping]:
                futex = _futex()
                if futex is not None:
                    futex(self._address(rank), _FUTEX_WAKE, _EVERYBODY)
                return

    def _address(self, rank: int) -> int:
        import ctypes

        return ctypes.addressof(ctypes.c_char.from_buffer(self.words, 8 * (self.line(rank) + ARRIVED)))


class Members(Board):
    """The words of some ranks of a run, which are numbered anew: 0 is the first of ``ranks``."""

    def __init__(self, board: Board, ranks: Sequence[int]) -> None:
        self._ranks = tuple(ranks)
        super().__init__(board.words, len(self._ranks))

    def line(self, rank: int) -> int:
        return super().line(self._ranks[rank])


def doze(words: memoryview, index: int, value: int, seconds: float) -> bool:
    """Sleep until a word is no longer ``value`` and `rouse` is called, or so long; False if this system cannot."""
    futex = _futex()
    if futex is None:
        return False
    return -futex(_address_of(words, index), _FUTEX_WAIT, value, int(seconds * 1e9)) != errno.ENOSYS


def rouse(words: memoryview, index: int) -> None:
    """Wake all who doze on a word."""
    futex = _futex()
    if futex is not None:
        futex(_address_of(words, index), _FUTEX_WAKE, _EVERYBODY)


def _address_of(words: memoryview, index: int) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(words, 8 * index))
