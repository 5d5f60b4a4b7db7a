"""The communicator over sockets; what it sends is described in `tutti.comm._partial`, how in `tutti._frames`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from tutti._board import WAITING
from tutti._frames import LOG, Channel, FrameError, PeerCut
from tutti.comm._partial import PartialComm, Sum
from tutti.comm.reduction import tree_join, tree_sum
from tutti.comm.tcp._pump import Pump, Transfer
from tutti.protocols import Link
from tutti.types import Array

_LOOK_SECONDS = 0.05


class TcpComm(PartialComm):
    """A `tutti.protocols.Streaming` over one connection for each pair of ranks.

    Parameters
    ----------
    link : what the engine gave to this rank.
    peers : a connected channel to each other rank, by rank; they belong to the communicator from now on.
    """

    def __init__(self, link: Link, peers: Mapping[int, Channel]) -> None:
        super().__init__(link)
        if sorted(peers) != self._others():
            raise ValueError(f"rank {self._rank} of {self._size} was given connections to the ranks {sorted(peers)}")
        self._pump = Pump(peers)
        self._free: list[Array] = []
        self._close = weakref.finalize(self, self._pump.close)

    def _sum(
        self, parts: Mapping[int, Array], n_shards: int, length: int, dtype: np.dtype[Any], holders: list[list[int]]
    ) -> Sum:
        return _InPlaceSum(self, parts, n_shards, length, dtype, holders)

    def _gather_into(self, out: Array, mine: Array) -> Callable[[], None]:
        n = len(mine)
        out[self._rank * n : (self._rank + 1) * n] = mine
        others = self._others()
        gives: dict[int, list[Array]] = {rank: [mine] for rank in others}
        return self._start(gives, {rank: out[rank * n : (rank + 1) * n] for rank in others})

    def _start(self, gives: Mapping[int, Sequence[Array]], takes: Mapping[int, Array]) -> Callable[[], None]:
        """Start to send contiguous arrays to ranks, and to receive one from ranks; what is returned waits for both."""
        transfer = self._pump.start(
            {rank: [_bytes(array) for array in arrays] for rank, arrays in gives.items()},
            {rank: _bytes(array) for rank, array in takes.items()},
        )
        return lambda: self._await(transfer)

    def _scratch(self, n_bytes: int) -> Array:
        """Return memory (n_bytes,) to be given back to ``_free`` after use; fresh memory is dearer than the network."""
        i = next((i for i, memory in enumerate(self._free) if len(memory) >= n_bytes), None)
        return np.empty(n_bytes, np.uint8) if i is None else self._free.pop(i)

    def _await(self, transfer: Transfer) -> None:
        began, words, waiting = perf_counter(), self._board.words, self._board.line(self._rank) + WAITING
        words[waiting], seen = 1, False
        while not self._pump.wait(transfer, _LOOK_SECONDS):
            self._pump.look()
            lost = self._lost(sorted(transfer.comes | transfer.goes))
            if lost is not None:
                if seen or lost < 0:  # what a rank said before it returned may be on its way
                    self._give_up(lost)
                seen = True
        error = transfer.error
        if isinstance(error, FrameError):
            LOG.error("rank %d gives up: %s", self._rank, error)
            self._broken(f"rank {self._rank}: {error}")
        if error is not None and not transfer.done:
            self._unconnected(error.peer, error.reason, cut=isinstance(error, PeerCut))
        words[waiting] = 0
        self._waited += perf_counter() - began

    def _leave(self) -> None:
        self._close()
        self._free.clear()


class _InPlaceSum(Sum):
    """What can be sent from where it lies is, and the result is received where it belongs."""

    ahead = 2
    bucket = 1 << 21
    _comm: TcpComm

    def _stripe(self, lo: int, hi: int, rank: int) -> slice:
        width = self._width(lo, hi)
        return slice(min(lo + rank * width, hi), min(lo + (rank + 1) * width, hi))

    def _node(self, node: tuple[int, int], columns: slice, held: list[Array]) -> Array:
        """Return the sum over a subtree of this rank's shards; memory it needs is added to ``held``."""
        rows = [self._parts[shard][columns] for shard in range(*node)]
        if len(rows) == 1:
            return np.ascontiguousarray(rows[0])
        held.append(self._comm._scratch(rows[0].nbytes))
        return tree_sum(rows, held[-1][: rows[0].nbytes].view(self._dtype))

    def _send(self, lo: int, hi: int) -> None:
        comm, item = self._comm, self._dtype.itemsize
        own, n_own = self._stripe(lo, hi, comm.rank), len(self._nodes[comm.rank])
        n = own.stop - own.start
        held = [comm._scratch((sum(map(len, self._nodes)) - n_own) * n * item)]
        gives: dict[int, list[Array]] = {}
        takes: dict[int, Array] = {}
        at = 0
        for rank in comm._others():
            theirs, n_theirs = self._stripe(lo, hi, rank), len(self._nodes[rank])
            if n_own and theirs.start < theirs.stop:
                gives[rank] = [self._node(node, theirs, held) for node in self._nodes[comm.rank]]
                comm._sent += n_own * (theirs.stop - theirs.start) * item
            if n_theirs and n:
                takes[rank] = held[0][at : at + n_theirs * n * item]
                at += n_theirs * n * item
        self._travelling.append((lo, hi, held, comm._start(gives, takes)))
        comm._pump.carry_on()

    def _add(self) -> None:
        comm = self._comm
        lo, hi, held, end = self._travelling.popleft()
        end()
        own = self._stripe(lo, hi, comm.rank)
        n = own.stop - own.start
        if n:
            row = n * self._dtype.itemsize
            came = iter(held[0][: len(held[0]) // row * row].view(self._dtype).reshape(-1, n))
            sums = {
                node: self._node(node, own, held) if rank == comm.rank else next(came)
                for rank, nodes in enumerate(self._nodes)
                for node in nodes
            }
            tree_join(sums, self._n, self._result[own])
        comm._free += held
        others = comm._others() if n else []
        comm._sent += len(others) * self._result[own].nbytes
        stripes = {rank: self._result[self._stripe(lo, hi, rank)] for rank in comm._others()}
        takes = {rank: stripe for rank, stripe in stripes.items() if len(stripe)}
        self._gathering.append((lo, hi, [], comm._start({rank: [self._result[own]] for rank in others}, takes)))
        comm._pump.carry_on()

    def _collect(self) -> None:
        *_, end = self._gathering.popleft()
        end()


def _bytes(array: Array) -> memoryview:
    return memoryview(array.view(np.uint8).data)
