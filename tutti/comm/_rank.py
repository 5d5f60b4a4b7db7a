"""What every communicator of this library does alike: who it is, what it checks, and how it gives up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tutti._board import FINISHED, Board
from tutti.errors import Aborted, RunError
from tutti.protocols import Link
from tutti.types import Array

DTYPES: dict[int, np.dtype[Any]] = {
    d.num: d for d in map(np.dtype, ("f4", "f8", "i4", "i8", "u4", "u8", "i2", "u2", "i1", "u1"))
}
CALLS = ("nothing", "barrier", "all_gather", "all_reduce", "share", "all_reduce_into")
BARRIER, GATHER, REDUCE, SHARE, INTO = range(1, 6)
CALL, N, LENGTH, DTYPE, WHERE, GIVEN = range(6)  # the words with which a rank says what it is about to do


class RankComm:
    """The rank's side of a run.

    Parameters
    ----------
    link : what the engine gave to this rank.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._rank, self._size = link.rank, link.size
        self._board: Board = link.board
        self._sent = 0
        self._waited = 0.0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    @property
    def sent_bytes(self) -> int:
        """Bytes this rank wrote or sent for others: of its shards, of a large result, of what is gathered."""
        return self._sent

    @property
    def wait_seconds(self) -> float:
        """Seconds this rank waited for others."""
        return self._waited

    def abort(self) -> None:
        """Wake every rank that waits, which then raises `Aborted`."""
        self._link.abort()

    def _check(self, call: int, parts: Mapping[int, Array], n_shards: int, first: Array) -> None:
        for shard, part in parts.items():
            if not 0 <= shard < n_shards:
                raise ValueError(f"{CALLS[call]}: shard {shard} is not one of 0..{n_shards - 1}")
            if part.shape != first.shape or part.ndim != 1 or part.dtype != first.dtype:
                raise ValueError(
                    f"{CALLS[call]}: the part of shard {shard} is {part.dtype}{part.shape}, another is "
                    f"{first.dtype}{first.shape}; expected 1-d arrays of one length and dtype"
                )

    def _check_dtype(self, dtype: np.dtype[Any]) -> None:
        if dtype.num not in DTYPES or not dtype.isnative:
            names = ", ".join(str(d) for d in DTYPES.values())
            raise ValueError(f"arrays of {dtype} cannot be summed; expected one of {names}")

    def _missing(self, call: int, shards: list[int]) -> NoReturn:
        self._broken(f"{CALLS[call]}: shards {shards} were given by no rank")

    def _broken(self, message: str) -> NoReturn:
        """Raise, and stop the others: after a disagreement nobody may go on with what is in the buffers."""
        self._link.abort()
        raise RunError(message)

    def _enter(self) -> None:
        if self._board.aborted():
            self._interrupted()

    def _interrupted(self) -> NoReturn:
        raise Aborted(f"rank {self._rank}: the run was stopped, because another rank failed or the caller stopped it")

    def _lost(self, late: list[int]) -> int | None:
        """Return why waiting for ``late`` is vain: -1 if the run was stopped, or a rank that returned or is lost."""
        board = self._board
        if board.aborted():
            return -1
        return next((rank for rank in late if board.get(rank, FINISHED) or board.lost(rank)), None)

    def _give_up(self, lost: int) -> NoReturn:
        if lost < 0:
            self._interrupted()
        if self._board.lost(lost):
            self._broken(f"rank {self._rank} waits in a collective call, but rank {lost} was lost")
        self._broken(
            f"rank {self._rank} waits in a collective call, but rank {lost} has returned already; "
            "every rank must make the same collective calls"
        )

    def _same_call(self, call: int, records: Sequence[Sequence[int]]) -> None:
        """Raise unless every rank is about to make the same call; ``records`` are their words, by rank."""
        for rank, other in enumerate(records):
            if other[CALL] != call:
                self._broken(
                    f"rank {self._rank} called {CALLS[call]}, rank {rank} called {CALLS[other[CALL]]}; "
                    "every rank must make the same collective calls in the same order"
                )

    def _same_parts(
        self, call: int, n_shards: int, what: Sequence[int], records: Sequence[Sequence[int]]
    ) -> Sequence[int]:
        """Return (length, dtype, where) of the parts; a rank without shards, which says -1, is told by the others."""
        known, total = list(what), 0
        for rank, other in enumerate(records):
            theirs = list(other[LENGTH : WHERE + 1])
            if known[0] < 0:
                known = theirs
            if other[N] != n_shards or (theirs != known and theirs[0] >= 0):
                self._broken(self._difference(call, rank, n_shards, known, other[N], theirs))
            total += other[GIVEN]
        if total != n_shards:
            self._broken(
                f"{CALLS[call]}: {total} arrays were given for {n_shards} shards; "
                "each shard id is given by exactly one rank"
            )
        return known

    def _difference(
        self, call: int, rank: int, n: int, known: Sequence[int], their_n: int, theirs: Sequence[int]
    ) -> str:
        def show(n_shards: int, what: Sequence[int]) -> str:
            return f"{CALLS[call]} of {n_shards} shards x {what[0]} {DTYPES.get(what[1], '?')}"

        mine, other = show(n, known), show(their_n, theirs)
        if mine == other:
            other += ", but allocated its buffers in another order"
        return f"rank {self._rank} called {mine}, rank {rank} called {other}; every rank must make the same calls"
