"""The communicator over sockets; what it sends is described in `tutti.comm._partial`, how in `tutti._frames`.

What a rank gives sets out right behind what it says about the call, and is received once the ranks are known to agree.
So a call is one trip, and a sum that is cut into stripes two.  A sum is not cut where that would save few bytes: each
rank then gets the partial sums of all others as they are, and adds them itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tutti._board import WAITING
from tutti._frames import LOG, Channel, FrameError, PeerCut
from tutti.comm._partial import SMALL, PartialComm, Plan, Sum
from tutti.comm.reduction import subtrees, tree_join, tree_sum
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
        self._ahead: _InPlaceSum | None = None  # has sent what it does not know the answer to
        self._close = weakref.finalize(self, self._pump.close)

    def _sum(self, parts: Mapping[int, Array], plan: Plan) -> Sum:
        return _InPlaceSum(self, parts, plan)

    def _pieces(self, mine: Sequence[Array], lengths: Callable[[], Sequence[int]]) -> list[Array]:
        transfer = self._post(dict.fromkeys(self._others(), mine))
        found = [np.empty(n, np.uint8) for n in lengths()]
        if mine:
            np.concatenate(mine, out=found[self._rank])
        self._receive(transfer, {rank: found[rank] for rank in self._others()})()
        return found

    def _gather_into(self, out: Array, mine: Array) -> Callable[[], None]:
        n = len(mine)
        out[self._rank * n : (self._rank + 1) * n] = mine
        others = self._others()
        gives: dict[int, list[Array]] = {rank: [mine] for rank in others}
        return self._start(gives, {rank: out[rank * n : (rank + 1) * n] for rank in others})

    def _start(self, gives: Mapping[int, Sequence[Array]], takes: Mapping[int, Array]) -> Callable[[], None]:
        """Start to send contiguous arrays to ranks, and to receive one from ranks; what is returned waits for both."""
        if self._ahead is not None:
            self._ahead.settle()
        return self._receive(self._post(gives), takes)

    def _post(self, gives: Mapping[int, Sequence[Array]]) -> Transfer:
        pieces = {rank: [_bytes(array) for array in arrays if len(array)] for rank, arrays in gives.items()}
        return self._pump.start({rank: views for rank, views in pieces.items() if views})

    def _receive(self, transfer: Transfer, takes: Mapping[int, Array]) -> Callable[[], None]:
        self._pump.expect(transfer, {rank: _bytes(array) for rank, array in takes.items() if len(array)})
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


@dataclass
class _Bucket:
    """Columns lo:hi of a sum: own partial sums, memory to be given back, and what has been sent and is to come."""

    lo: int
    hi: int
    own: list[Array]
    held: list[Array]
    sent: Transfer
    came: Array | None = None
    end: Callable[[], None] | None = None


class _InPlaceSum(Sum):
    """What can be sent from where it lies is, and the result is received where it belongs."""

    ahead = 2
    bucket = 1 << 21
    _comm: TcpComm

    def __init__(self, comm: TcpComm, parts: Mapping[int, Array], plan: Plan) -> None:
        super().__init__(comm, parts, plan)
        self._own = subtrees(self._n, parts)
        self._cut = not self._whole and self._saves(plan.before or plan.holders)
        self._each: list[list[tuple[int, int]]] | None = None

    def settle(self) -> None:
        """Begin to receive what the others send, which is known as soon as all have said what they hold."""
        self._comm._ahead = None
        self._each = self._nodes()
        for bucket in self._travelling:
            self._expect(bucket)
        self._comm._pump.carry_on()

    def _saves(self, holders: Sequence[Sequence[int]]) -> bool:
        """Tell whether stripes are clearly fewer bytes for some rank; the same on all ranks, which know the holders."""
        size, counts = len(holders), [len(subtrees(self._n, holder)) for holder in holders]
        extra = (sum(counts) - min(counts) - 1) * (size - 1) * self.length * self._dtype.itemsize // size
        return extra > SMALL

    def _stripe(self, lo: int, hi: int, rank: int) -> slice:
        if not self._cut:
            return slice(lo, hi)
        width = self._width(lo, hi)
        return slice(min(lo + rank * width, hi), min(lo + (rank + 1) * width, hi))

    def _partials(self, columns: slice, held: list[Array]) -> list[Array]:
        """Return the partial sums of this rank; memory they need is added to ``held``."""
        found = []
        for node in self._own:
            rows = [self._parts[shard][columns] for shard in range(*node)]
            if len(rows) == 1:
                found.append(np.ascontiguousarray(rows[0]))
                continue
            held.append(self._comm._scratch(rows[0].nbytes))
            found.append(tree_sum(rows, held[-1][: rows[0].nbytes].view(self._dtype)))
        return found

    def _send(self, lo: int, hi: int) -> None:
        comm, held = self._comm, list[Array]()
        if self._cut:
            own, gives = [], {rank: self._partials(self._stripe(lo, hi, rank), held) for rank in comm._others()}
        else:
            own = self._partials(slice(lo, hi), held)
            gives = dict.fromkeys(comm._others(), own)
        comm._sent += sum(partial.nbytes for given in gives.values() for partial in given)
        bucket = _Bucket(lo, hi, own, held, comm._post(gives))
        self._travelling.append(bucket)
        if self._each is not None:
            self._expect(bucket)
        elif self._plan.agreed or len(self._travelling) > 1:
            self.settle()
        else:
            comm._ahead = self
        comm._pump.carry_on()

    def _expect(self, bucket: _Bucket) -> None:
        assert self._each is not None
        own, item = self._stripe(bucket.lo, bucket.hi, self._comm.rank), self._dtype.itemsize
        counts = {rank: len(nodes) for rank, nodes in enumerate(self._each) if rank != self._comm.rank}
        n_bytes = (own.stop - own.start) * item
        bucket.held.append(self._comm._scratch(sum(counts.values()) * n_bytes))
        bucket.came = bucket.held[-1][: sum(counts.values()) * n_bytes]
        takes, at = {}, 0
        for rank, n in counts.items():
            takes[rank] = bucket.came[at : at + n * n_bytes]
            at += n * n_bytes
        bucket.end = self._comm._receive(bucket.sent, takes)

    def _add(self) -> None:
        comm = self._comm
        if self._each is None:
            self.settle()
        bucket = self._travelling.popleft()
        assert bucket.end is not None
        assert bucket.came is not None
        assert self._each is not None
        bucket.end()
        own = self._stripe(bucket.lo, bucket.hi, comm.rank)
        n = own.stop - own.start
        if n:
            came = iter(bucket.came.view(self._dtype).reshape(-1, n))
            mine = iter(bucket.own or self._partials(own, bucket.held))
            sums = {
                node: next(mine if rank == comm.rank else came)
                for rank, nodes in enumerate(self._each)
                for node in nodes
            }
            tree_join(sums, self._n, self._result[own])
        comm._free += bucket.held
        if self._cut:
            self._give_out(bucket.lo, bucket.hi)

    def _give_out(self, lo: int, hi: int) -> None:
        """Send the added stripe to all, and receive theirs."""
        comm, others = self._comm, self._comm._others()
        own = self._result[self._stripe(lo, hi, comm.rank)]
        comm._sent += len(others) * own.nbytes
        takes = {rank: self._result[self._stripe(lo, hi, rank)] for rank in others}
        self._gathering.append(comm._start({rank: [own] for rank in others}, takes))
        comm._pump.carry_on()

    def _collect(self) -> None:
        self._gathering.popleft()()


def _bytes(array: Array) -> memoryview:
    return memoryview(array.view(np.uint8).data)
