"""Several ranks on each of several hosts: those of a host meet in its memory, and the first of them speaks for it.

The first rank of a host gives the shards of all ranks of its host to the sum between hosts, so that every host sends
and receives what a single rank would.  Which shards are added where changes, the tree and its bits do not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutti._board import Board
from tutti.comm._rank import CALLS, DTYPES, GATHER, REDUCE, SHARE, RankComm
from tutti.comm.shm import ShmComm
from tutti.comm.tcp import PeerLink
from tutti.comm.tcp._group import TcpComm
from tutti.types import Array

_CALL = struct.Struct("<q")
_SAID = struct.Struct("<qqqq")  # shards, length, dtype, number of own shards; their ids follow
_TOTAL = struct.Struct("<qq")  # length and dtype of what all hosts gave
_LENGTH = struct.Struct("<q")


class _BoardOfSome(Board):
    """The words of some ranks of a board, numbered from 0 in the order of ``ranks``."""

    def __init__(self, board: Board, ranks: Sequence[int]) -> None:
        self._lines = [board.line(rank) for rank in ranks]
        super().__init__(board.words, len(ranks))

    def line(self, rank: int) -> int:
        return self._lines[rank]


class _Some:
    """A `tutti.protocols.Link` between some of the ranks of a run."""

    def __init__(self, link: PeerLink, ranks: Sequence[int], transport: str) -> None:
        self.rank, self.size, self.transport = list(ranks).index(link.rank), len(ranks), transport
        self.board = _BoardOfSome(link.board, ranks)
        self.allocate, self.lock, self.locks, self.abort = link.allocate, link.lock, link.locks, link.abort


class HostsComm(RankComm):
    """A `tutti.protocols.Communicator` between the ranks of several hosts; see the module.

    Parameters
    ----------
    link : what the engine gave to this rank.
    hosts : the ranks of each host.
    """

    shares_memory = False

    def __init__(self, link: PeerLink, hosts: Sequence[Sequence[int]]) -> None:
        super().__init__(link)
        if sorted(rank for ranks in hosts for rank in ranks) != list(range(self._size)):
            raise ValueError(f"hosts={hosts} does not name each of {self._size} ranks once")
        self._hosts = [tuple(ranks) for ranks in hosts]
        own = next(ranks for ranks in self._hosts if self._rank in ranks)
        self._near = ShmComm(_Some(link, own, "shm"))
        self._far: TcpComm | None = None
        self._results: dict[tuple[int, int], Array] = {}
        if own[0] == self._rank:
            firsts = [ranks[0] for ranks in self._hosts]
            peers = link.peers(firsts)
            self._far = TcpComm(_Some(link, firsts, "tcp"), {firsts.index(r): c for r, c in peers.items()})

    @property
    def sent_bytes(self) -> int:
        """Bytes this rank wrote or sent for others."""
        return self._sent

    @property
    def wait_seconds(self) -> float:
        """Seconds this rank waited for others."""
        return self._near.wait_seconds + (self._far.wait_seconds if self._far else 0.0)

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._near.barrier()
        if self._far is not None:
            self._far.barrier()
        self._near.barrier()

    def slots(self, n_shards: int, length: int, dtype: Any) -> Array:
        """Return rows (n_shards, length), seen by all ranks of this host; write only the rows of own shards."""
        return self._near.slots(n_shards, length, dtype)

    def all_reduce(self, parts: Mapping[int, Array], n_shards: int) -> Array:
        """Sum one array (length,) per shard in the canonical tree; see `tutti.protocols.Communicator`."""
        rows = self._brought(REDUCE, parts, n_shards)
        total = self._far.all_reduce(rows, n_shards) if self._far is not None else None
        return self._told([total] if total is not None else None, 1)[0]

    def share(self, parts: Mapping[int, Array], n_shards: int) -> Sequence[Array]:
        """Return the arrays of all shards, by shard id; see `tutti.protocols.Communicator`."""
        rows = self._brought(SHARE, parts, n_shards)
        return self._told(self._far.share(rows, n_shards) if self._far is not None else None, n_shards)

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return the bytes that every rank gave, by rank."""
        near = self._say(GATHER, payload)
        self._sent += len(payload)
        said = b""
        if self._far is not None:
            far = self._far.all_gather(b"".join(_LENGTH.pack(len(p)) + p for p in near))
            said = b"".join(far)
        together = memoryview(self._near.all_gather(said)[0])
        found, at = {}, 0
        for rank in (rank for ranks in self._hosts for rank in ranks):
            (n,) = _LENGTH.unpack_from(together, at)
            at += _LENGTH.size + n
            found[rank] = bytes(together[at - n : at])
        return [found[rank] for rank in range(self._size)]

    def abort(self) -> None:
        """Wake every rank that waits, which then raises `Aborted`."""
        super().abort()
        if self._far is not None:
            self._far.abort()

    def close(self) -> None:
        """Let go of the others; the communicator cannot be used afterwards."""
        self._near.close()
        self._results.clear()
        if self._far is not None:
            self._far.close()

    def _say(self, call: int, text: bytes) -> list[bytes]:
        """Return what every rank of this host says about the call that all of them make."""
        said = self._near.all_gather(_CALL.pack(call) + text)
        for other in said:
            (theirs,) = _CALL.unpack_from(other)
            if theirs != call:
                self._broken(
                    f"rank {self._rank} called {CALLS[call]}, another rank of its host {CALLS[theirs]}; "
                    "every rank must make the same collective calls in the same order"
                )
        return [other[_CALL.size :] for other in said]

    def _brought(self, call: int, parts: Mapping[int, Array], n_shards: int) -> dict[int, Array]:
        """Bring the parts of this host where its first rank sees them; return them by shard."""
        self._enter()
        length = dtype = -1
        if parts:
            first = next(iter(parts.values()))
            self._check(call, parts, n_shards, first)
            self._check_dtype(first.dtype)
            length, dtype = len(first), first.dtype.num
        ids = np.array(sorted(parts), np.int64)
        said = self._say(call, _SAID.pack(n_shards, length, dtype, len(ids)) + ids.tobytes())
        length, dtype, held = self._agreed(call, n_shards, length, dtype, said)
        if not held:
            return {}
        rows = self._near.slots(n_shards, length, DTYPES[dtype])
        for shard, part in parts.items():
            if part.__array_interface__["data"] != rows[shard].__array_interface__["data"]:
                rows[shard] = part
        self._sent += len(parts) * length * rows.itemsize
        self._near.barrier()
        return {shard: rows[shard] for shard in held}

    def _agreed(
        self, call: int, n_shards: int, length: int, dtype: int, said: Sequence[bytes]
    ) -> tuple[int, int, list[int]]:
        """Return length and dtype of the parts on this host, and its shards; the sum between hosts checks the rest."""
        held: list[int] = []
        for other in said:
            their_n, their_length, their_dtype, n = _SAID.unpack_from(other)
            if their_length >= 0 and length < 0:
                length, dtype = their_length, their_dtype
            agree = their_length < 0 or (their_length, their_dtype) == (length, dtype)
            if their_n != n_shards or not agree:
                self._broken(
                    f"rank {self._rank} called {CALLS[call]} of {n_shards} shards x {length} {DTYPES.get(dtype)}, "
                    f"another rank of its host of {their_n} x {their_length} {DTYPES.get(their_dtype)}; "
                    "every rank must make the same calls"
                )
            held += np.frombuffer(other, np.int64, n, _SAID.size).tolist()
        if len(set(held)) != len(held):
            self._broken(f"{CALLS[call]}: shards {sorted(held)} were given; each shard id is given by exactly one rank")
        return length, dtype, held

    def _told(self, rows: Sequence[Array] | None, n: int) -> list[Array]:
        """Return what the first rank of this host has got, in memory that all of its ranks see."""
        said = b"" if rows is None else _TOTAL.pack(len(rows[0]), rows[0].dtype.num)
        length, dtype = _TOTAL.unpack(self._near.all_gather(said)[0])
        key = (n * length, dtype)
        if key not in self._results:
            n_bytes = n * length * DTYPES[dtype].itemsize
            self._results[key] = self._near.memory(max(n_bytes, 1))[:n_bytes].view(DTYPES[dtype])
        found = self._results[key].reshape(n, length)
        if rows is not None:
            for to, row in zip(found, rows, strict=True):
                to[:] = row
        self._near.barrier()
        views = [row.view() for row in found]
        for view in views:
            view.flags.writeable = False
        return views
