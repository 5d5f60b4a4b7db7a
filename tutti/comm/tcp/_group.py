"""The communicator over sockets; what it sends is described in `tutti.comm._partial`, how in `tutti._frames`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import accumulate
from time import perf_counter

from tutti._board import WAITING
from tutti._frames import LOG, Channel, FrameError
from tutti.comm._partial import PartialComm
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
        self._close = weakref.finalize(self, self._pump.close)

    def _gather_into(self, out: Array, mine: Array) -> Callable[[], None]:
        n, given = len(mine), mine.data
        blocks = out.data
        out[self._rank * n : (self._rank + 1) * n] = mine
        others = self._others()
        return self._start(dict.fromkeys(others, given), {rank: blocks[rank * n : (rank + 1) * n] for rank in others})

    def _exchange(self, out: Array, mine: Array, came: list[int], went: list[int]) -> Callable[[], None]:
        to, given = _blocks(out, came), _blocks(mine, went)
        to[self._rank][:] = given[self._rank]
        others = self._others()
        return self._start({rank: given[rank] for rank in others}, {rank: to[rank] for rank in others})

    def _start(self, sends: Mapping[int, memoryview], receives: Mapping[int, memoryview]) -> Callable[[], None]:
        transfer = self._pump.start(sends, receives)
        return lambda: self._await(transfer)

    def _carry_on(self) -> None:
        self._pump.carry_on()

    def _await(self, transfer: Transfer) -> None:
        began, words, waiting = perf_counter(), self._board.words, self._board.line(self._rank) + WAITING
        words[waiting], seen = 1, False
        while not self._pump.wait(transfer, _LOOK_SECONDS):
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
            self._unconnected(error.peer, error.reason)
        words[waiting] = 0
        self._waited += perf_counter() - began

    def _leave(self) -> None:
        self._close()


def _blocks(flat: Array, lengths: list[int]) -> list[memoryview]:
    ends = list(accumulate(lengths))
    return [flat.data[end - n : end] for end, n in zip(ends, lengths, strict=True)]
