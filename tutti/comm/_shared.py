"""The collective calls of ranks that see the same memory; how they wait for each other is left to two subclasses.

all_reduce, large: every rank puts its shards' rows where all see them, barrier, every rank sums its stripe of columns
over all shards into a shared result, barrier.  No rank moves more than it must, and nothing is summed twice.
all_reduce, small: rows are copied into one of two mirrors used in turn, barrier, every rank sums everything itself:
one barrier is dearer than a few thousand additions.
share: as all_reduce up to its first barrier; then every rank may read all rows where they lie.
all_reduce_into: for arrays that lie elsewhere; piece by piece through a window that stays in the cache.

Every call first agrees: ranks compare what they are about to do (which call, sizes, type, which shards) and raise
together where they differ, so a wrong program ends in an error and never in a wrong sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from tutti._board import ARRIVED, WAITING
from tutti.comm._rank import BARRIER, CALL, DTYPES, INTO, REDUCE, SHARE, RankComm
from tutti.comm.claims import Claims
from tutti.comm.commons import Commons
from tutti.comm.reduction import stripe, tree_sum
from tutti.protocols import Link
from tutti.types import Array

_PIECE = 1 << 20  # bytes of a shard's array that go through the window at once
_SMALL = 1 << 16  # bytes of all shards together; below, one barrier and a whole sum beat two barriers and a stripe

_BYTE = np.dtype("u1")


class Buffer:
    """Memory of one (n_shards, length, dtype): rows, two mirrors if small, the result, and what was given when."""

    def __init__(self, memory: Array, where: int, n_shards: int, length: int, dtype: np.dtype[Any]) -> None:
        self.where, self.n_shards, self.length, self.dtype = where, n_shards, length, dtype
        self.calls = 0
        row = _pad(length * dtype.itemsize)
        self.small = small = n_shards * row <= _SMALL
        at = 2 * _pad(8 * n_shards)
        self.stamps = [memoryview(row)[:n_shards] for row in memory[:at].view(np.int64).reshape(2, -1)]  # type: ignore[arg-type]

        def rows(start: int) -> Array:
            block = memory[start : start + n_shards * row].view(dtype).reshape(n_shards, row // dtype.itemsize)
            return block[:, :length]

        self.slots = rows(at)
        at += n_shards * row
        self.addresses = [self.slots.__array_interface__["data"][0] + i * row for i in range(n_shards)]
        self.mirrors = [rows(at), rows(at + n_shards * row)] if small else []
        self.result = np.empty(length, dtype) if small else memory[at : at + row].view(dtype)[:length]
        self.view = self.result.view()
        self.view.flags.writeable = False

    @staticmethod
    def n_bytes(n_shards: int, length: int, dtype: np.dtype[Any]) -> int:
        row = _pad(length * dtype.itemsize)
        extra = 2 * n_shards * row if n_shards * row <= _SMALL else row
        return 2 * _pad(8 * n_shards) + n_shards * row + extra

    def holds(self, shard: int, part: Array) -> bool:
        """True if ``part`` is the row of ``shard`` itself."""
        return bool(part.__array_interface__["data"][0] == self.addresses[shard] and part.flags.c_contiguous)


def _pad(n: int) -> int:
    return max(-(-n // 64), 1) * 64


class SharedComm(RankComm, ABC):
    """A `tutti.protocols.Communicator` over shared memory; see the module for the algorithm.

    Parameters
    ----------
    link : what the engine gave to this rank.
    """

    shares_memory = True

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._line = link.board.line(link.rank)
        self._lines = [link.board.line(rank) for rank in range(link.size)]
        self._records = [[link.board.record(rank, turn) for rank in range(link.size)] for turn in (0, 1)]
        self._meetings = 0
        self._allocated = 0
        self._buffers: dict[tuple[int, int, int], Buffer] = {}
        self._read = -1  # the meeting after which other ranks may still read the rows of a shared buffer

    def barrier(self) -> None:
        """Return when every rank has called it."""
        if self._size == 1:
            self._enter()
        else:
            self._agree(BARRIER)

    def slots(self, n_shards: int, length: int, dtype: Any) -> Array:
        """Return the rows (n_shards, length) that `all_reduce` sums from; write only the rows of own shards.

        All ranks that call it call it in the same order with the same sizes, as they do `all_reduce`.
        """
        return self._buffer(n_shards, length, np.dtype(dtype)).slots

    def all_reduce(self, parts: Mapping[int, Array], n_shards: int) -> Array:
        """Sum one array (length,) per shard in the canonical tree; every rank gets the same bits.

        Parameters
        ----------
        parts : the arrays of the shards this rank holds, by shard id; all of one length and dtype.
        n_shards : number of shards over all ranks.

        Returns
        -------
        (length,) read-only array, valid until this rank's next ``all_reduce`` or ``share``.

        Raises
        ------
        ValueError : for an array or shard id that cannot be.
        RunError : if the ranks disagree, or a shard was given by no rank or by two.
        Aborted : if the run was stopped.
        """
        buffer = self._bring(REDUCE, parts, n_shards)
        if self._size == 1:
            tree_sum([parts[i] for i in range(n_shards)], buffer.result)
        elif buffer.small:
            tree_sum(buffer.mirrors[(buffer.calls - 1) & 1], buffer.result)
        else:
            lo, hi = stripe(buffer.length, self._rank, self._size)
            tree_sum(self._rows(buffer), buffer.result, lo, hi)
            self._sent += (hi - lo) * buffer.dtype.itemsize
            self._meet()
        return buffer.view

    def share(self, parts: Mapping[int, Array], n_shards: int) -> Sequence[Array]:
        """Return the arrays of all shards, by shard id; large ones are read where they lie.

        Parameters and errors are those of `all_reduce`.

        Returns
        -------
        n_shards read-only arrays (length,), valid until this rank calls ``share`` or ``all_reduce`` again.  The other
        ranks may read them as long: who changes what it gave (a row of ``slots``, too) has a barrier before.
        """
        buffer = self._bring(SHARE, parts, n_shards)
        rows: Array | Sequence[Array]
        if self._size == 1:
            rows = [parts[i] for i in range(n_shards)]
        elif buffer.small:
            rows = buffer.mirrors[(buffer.calls - 1) & 1]
        else:
            rows = self._rows(buffer)
            self._read = self._meetings
        views = [row.view() for row in rows]
        for view in views:
            view.flags.writeable = False
        return views

    def memory(self, n_bytes: int) -> Array:
        """Return memory (n_bytes,) that all ranks see, contents undefined; all ask for the same in the same order."""
        self._allocated += n_bytes
        return self._link.allocate(n_bytes)

    def claims(self, own: Sequence[int], n_shards: int) -> Claims | None:
        """Return what decides which rank works on which shard; all ranks ask for it at the same time."""
        words = self.memory(8 * Claims.n_words(self._size, n_shards)).view(np.int64)
        return Claims(words, self._link.lock(), self._rank, self._size, own, n_shards) if self._size > 1 else None

    def commons(self) -> Commons:
        """Return what ranks have in common that do not move in step; all ask for it at the same time."""
        return Commons(self._link, self.memory)

    def all_reduce_into(self, parts: Mapping[int, Array], n_shards: int, out: Array) -> None:
        """Sum as `all_reduce` does, into an array of this rank's own; a part may be ``out`` itself.

        Parameters
        ----------
        parts : the arrays of the shards this rank holds, of the length and dtype of ``out``.
        n_shards : number of shards over all ranks.
        out : (length,) array that the sum is written to.
        """
        if n_shards * out.nbytes <= _SMALL:
            out[:] = self.all_reduce(parts, n_shards)
            return
        self._enter()
        self._check(INTO, parts, n_shards, out)
        window = self._buffer(n_shards, 2 * _PIECE, _BYTE)
        if self._size == 1:
            self._alone(INTO, parts, n_shards, window)
            tree_sum([parts[i] for i in range(n_shards)], out)
            return
        self._clear_of_readers(INTO)
        self._give(window, parts)
        self._put_piece(window, parts, 0)
        self._agree_on_parts(INTO, n_shards, (len(out), out.dtype.num, window.where), len(parts))
        self._check_stamps(INTO, window)
        self._sent += len(parts) * out.nbytes
        self._pieces(window, parts, out)

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return the bytes that every rank gave, by rank."""
        self._enter()
        if self._size == 1:
            return [bytes(payload)]
        self._sent += len(payload)
        return self._gather(bytes(payload))

    def close(self) -> None:
        """Let go of the shared memory; the communicator cannot be used afterwards."""
        self._buffers.clear()

    @abstractmethod
    def _wait(self, target: int) -> None:
        """Return when every rank has arrived ``target`` times; raise through `_give_up` if that cannot come."""

    @abstractmethod
    def _gather(self, payload: bytes) -> list[bytes]: ...

    def _put(self, buffer: Buffer, parts: Mapping[int, Array], mirror: Array | None) -> None:
        """Bring the parts where every rank sees them: the mirror of a small buffer, else the slots."""
        for shard, part in parts.items():
            if mirror is not None:
                mirror[shard] = part
            elif not buffer.holds(shard, part):
                buffer.slots[shard] = part

    def _rows(self, buffer: Buffer) -> Array | Sequence[Array]:
        """Return what is summed, one row per shard."""
        return buffer.slots

    def _bring(self, call: int, parts: Mapping[int, Array], n_shards: int) -> Buffer:
        """Check the parts, agree on the call, and return the buffer in which all parts can be seen."""
        self._enter()  # before anything is written: a rank that failed must not complete what others still check
        buffer = None
        if parts:
            first = next(iter(parts.values()))
            self._check(call, parts, n_shards, first)
            buffer = self._buffer(n_shards, len(first), first.dtype)
        if self._size == 1:
            return self._alone(call, parts, n_shards, buffer)
        self._clear_of_readers(call)
        what = (-1, -1, -1)
        if buffer is not None:
            self._give(buffer, parts)
            self._put(buffer, parts, buffer.mirrors[buffer.calls & 1] if buffer.small else None)
            self._sent += len(parts) * buffer.length * buffer.dtype.itemsize
            what = (buffer.length, buffer.dtype.num, buffer.where)
        length, dtype, where = self._agree_on_parts(call, n_shards, what, len(parts))
        if buffer is None:
            buffer = self._buffer(n_shards, length, DTYPES[dtype])
            if buffer.where != where:
                self._broken(f"rank {self._rank} allocated its buffers in another order than the ranks with shards")
        self._check_stamps(call, buffer)
        buffer.calls += 1
        return buffer

    def _clear_of_readers(self, call: int) -> None:
        """Wait until nobody reads any more what `share` returned."""
        if self._read == self._meetings:
            self._agree(call)

    def _give(self, buffer: Buffer, parts: Mapping[int, Array]) -> None:
        """Mark the shards this rank brings to the coming call."""
        stamps, stamp = buffer.stamps[buffer.calls & 1], self._stamp(buffer)
        for shard in parts:
            stamps[shard] = stamp

    def _put_piece(self, window: Buffer, parts: Mapping[int, Array], start: int) -> None:
        """Copy a piece of the parts into the half of the window whose turn it is."""
        at = (window.calls & 1) * _PIECE
        for shard, part in parts.items():
            piece = part[start : start + _PIECE // part.itemsize]
            window.slots[shard, at : at + piece.nbytes].view(part.dtype)[:] = piece

    def _pieces(self, window: Buffer, parts: Mapping[int, Array], out: Array) -> None:
        """Sum piece by piece, the first is in the window; a piece is put while others still read the one before."""
        width, striped = _PIECE // out.itemsize, window.n_shards > 2
        for start in range(0, len(out), width):
            n, at = min(width, len(out) - start), (window.calls & 1) * _PIECE
            more = start + n < len(out)
            window.calls += 1
            rows = window.slots[:, at : at + n * out.itemsize].view(out.dtype)
            target = out[start : start + n]
            if striped:  # with two shards, to add it all costs no more than to add a stripe and to copy the rest
                total = window.result[at : at + n * out.itemsize].view(out.dtype)
                tree_sum(rows, total, *stripe(n, self._rank, self._size))
            else:
                tree_sum(rows, target)
            if more:
                self._put_piece(window, parts, start + n)
            if more or striped:
                self._meet()
            if striped:
                target[:] = total

    def _alone(self, call: int, parts: Mapping[int, Array], n_shards: int, buffer: Buffer | None) -> Buffer:
        if buffer is None or len(parts) != n_shards:
            self._missing(call, [i for i in range(n_shards) if i not in parts])
        return buffer

    def _buffer(self, n_shards: int, length: int, dtype: np.dtype[Any]) -> Buffer:
        key = (n_shards, length, dtype.num)
        found = self._buffers.get(key)
        if found is None:
            self._check_dtype(dtype)
            n_bytes = Buffer.n_bytes(n_shards, length, dtype)
            memory = self._link.allocate(n_bytes)
            found = self._buffers[key] = Buffer(memory, self._allocated, n_shards, length, dtype)
            self._allocated += n_bytes
        return found

    def _stamp(self, buffer: Buffer) -> int:
        """What marks a shard as given in this call; old memory of another run cannot hold it by chance."""
        return self._board.run + buffer.calls

    def _check_stamps(self, call: int, buffer: Buffer) -> None:
        stamps, stamp = buffer.stamps[buffer.calls & 1].tolist(), self._stamp(buffer)
        if stamps.count(stamp) != len(stamps):
            self._missing(call, [shard for shard, found in enumerate(stamps) if found != stamp])

    def _late(self, target: int) -> list[int]:
        """Ranks that have not arrived ``target`` times."""
        words = self._board.words
        return [rank for rank, line in enumerate(self._lines) if words[line + ARRIVED] < target]

    def _announce(self) -> None:
        """Tell the others that this rank has arrived; whatever it wrote before is seen by who sees this."""
        self._board.words[self._line + ARRIVED] = self._meetings

    def _meet(self) -> None:
        """A barrier without a word."""
        self._enter()
        self._meetings += 1
        words, waiting = self._board.words, self._line + WAITING
        words[waiting] = 1
        began = perf_counter()
        self._announce()
        self._wait(self._meetings)
        self._waited += perf_counter() - began
        words[waiting] = 0

    def _agree(self, call: int, *what: int) -> list[list[int]]:
        """Barrier at which every rank says what it is about to do; returns what each one said, by rank."""
        records = self._records[self._meetings & 1]
        mine = records[self._rank]
        mine[CALL] = call
        for i, value in enumerate(what, 1):
            mine[i] = value
        self._meet()
        found = [record.tolist() for record in records]
        self._same_call(call, found)
        return found

    def _agree_on_parts(self, call: int, n_shards: int, what: tuple[int, int, int], given: int) -> Sequence[int]:
        """Return (length, dtype, where) of the parts; a rank without shards, which says -1, is told by the others."""
        return self._same_parts(call, n_shards, what, self._agree(call, n_shards, *what, given))
