"""The communicator between threads of one process: rows are handed over by reference, waiting costs no spin.

A thread that spun in Python would hold the interpreter the others need; so each rank sleeps on a lock of its own, and
the last to arrive opens them all.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from tutti.comm._rank import GATHER
from tutti.comm._shared import Buffer, SharedComm
from tutti.protocols import ThreadLink
from tutti.types import Array

_KEPT = 1 << 16  # bytes of a gathered payload that may stay until the call after the next one


class _Gates:
    """One lock per rank: closed, and opened once to let the rank through."""

    def __init__(self, size: int) -> None:
        self.mutex = threading.Lock()
        self.locks = [threading.Lock() for _ in range(size)]
        for lock in self.locks:
            lock.acquire()
        self.asleep: list[int] = []

    def open_all(self) -> None:
        with self.mutex:
            self.open_asleep()

    def open_asleep(self) -> None:
        for rank in self.asleep:
            self.locks[rank].release()
        self.asleep.clear()


class ThreadComm(SharedComm):
    """A `tutti.protocols.Communicator` between the threads of `tutti.Threads`."""

    def __init__(self, link: ThreadLink) -> None:
        super().__init__(link)
        size = link.size
        self._gates: _Gates = link.share("gates", lambda: _Gates(size))
        self._payloads: list[list[bytes]] = link.share("payloads", lambda: [[b""] * size, [b""] * size])
        self._given: dict[int, list[Array]] = link.share("given", dict)
        self._gathers = 0
        link.on_change(self._gates.open_all)

    def close(self) -> None:
        super().close()
        self._given.clear()

    def _wait(self, target: int) -> None:
        gates, slept = self._gates, False
        while True:
            with gates.mutex:
                late = self._late(target)
                if not late:
                    if not slept:
                        gates.open_asleep()
                    return
                lost = self._lost(late)
                if lost is None:
                    gates.asleep.append(self._rank)
            if lost is not None:
                self._give_up(lost)
            gates.locks[self._rank].acquire()
            slept = True

    def _gather(self, payload: bytes) -> list[bytes]:
        payloads = self._payloads[self._gathers & 1]
        self._gathers += 1
        payloads[self._rank] = payload
        self._agree(GATHER)
        found = list(payloads)
        if sum(map(len, found)) > _KEPT:
            self._meet()  # all have taken it
            payloads[self._rank] = b""
        return found

    def _put(self, buffer: Buffer, parts: Mapping[int, Array], mirror: Array | None) -> None:
        if mirror is not None:
            super()._put(buffer, parts, mirror)
            return
        rows = self._given.setdefault(buffer.where, [buffer.slots[i] for i in range(buffer.n_shards)])
        for shard, part in parts.items():
            rows[shard] = part

    def _rows(self, buffer: Buffer) -> Array | Sequence[Array]:
        return self._given[buffer.where]
