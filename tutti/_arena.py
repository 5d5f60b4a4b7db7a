"""The memory that the processes of a run share, seen from a rank."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from tutti._board import Board, Members
from tutti.types import Array


class Arena:
    """The memory of a run, handed out in the order of asking; the same order on every rank gives the same memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)
        self._maps: dict[tuple[int, int], Array] = {}
        self._end, self._locks = 0, 1

    def words(self, size: int) -> memoryview:
        """Begin a run: return the words of the board, which come first."""
        self._end, self._locks = 0, 1
        return memoryview(self.allocate(8 * Board.n_words(size))).cast("q")  # type: ignore[arg-type]

    def allocate(self, n_bytes: int) -> Array:
        where, self._end = self._end, self._end + -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        found = self._maps.get((where, n_bytes))
        if found is None:
            mapped = mmap.mmap(self._fd, max(n_bytes, 1), offset=where)
            found = self._maps[where, n_bytes] = np.frombuffer(mapped, np.uint8)
        return found

    @property
    def end(self) -> int:
        """Bytes handed out so far."""
        return self._end

    def go_on_from(self, end: int) -> None:
        """Hand out what follows byte ``end``."""
        self._end = end

    def lock(self) -> AbstractContextManager[object]:
        return _FileLock(self._fd)

    def locks(self, n: int) -> list[AbstractContextManager[object]]:
        first, self._locks = self._locks, self._locks + n
        return [_FileLock(self._fd, first + i) for i in range(n)]

    def close(self) -> None:
        self._maps.clear()
        self._close()


_TRIES = 50  # to get a lock that is held for some microseconds; to sleep for it would take longer


class _FileLock:
    """A lock between processes that the system opens when its holder dies; each has a byte of the file."""

    def __init__(self, fd: int, byte: int = 0) -> None:
        self._fd, self._byte = fd, byte

    def __enter__(self) -> None:
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
                return
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._byte)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)


class ShmLink:
    """A `tutti.protocols.Link` over an `Arena`."""

    def __init__(self, arena: Arena, board: Board, rank: int, size: int, transport: str = "shm") -> None:
        self.rank, self.size, self.board, self.transport = rank, size, board, transport
        self._arena = arena
        self.allocate, self.lock, self.locks = arena.allocate, arena.lock, arena.locks

    def abort(self) -> None:
        self.board.abort()

    @property
    def allocated(self) -> int:
        """Bytes that this rank has asked for, its place in the memory of the run."""
        return self._arena.end

    def among(self, ranks: Sequence[int], allocated: int) -> ShmLink:
        """Return this rank's link to some ranks alone, which hand out the memory that follows byte ``allocated``."""
        self._arena.go_on_from(allocated)
        return ShmLink(self._arena, Members(self.board, ranks), ranks.index(self.rank), len(ranks), self.transport)
