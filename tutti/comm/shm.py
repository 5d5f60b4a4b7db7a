"""The communicator between processes of one host: a barrier is a few words in shared memory and needs no system call.

A rank that waits spins for a moment if it has a core of its own, offers it to others while its waits are short, then
sleeps until one of the late ranks arrives and wakes it, which costs more than a short wait.  It looks up now and then,
for the abort word and for a wake-up that was missed; whether the others live is the engine's business, so a wait has
no deadline.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from typing import NoReturn, cast

import numpy as np

from tutti._arena import ShmLink
from tutti._board import ARRIVED, SLEEPING, WAITING
from tutti.comm._membership import Membership
from tutti.comm._rank import GATHER, N
from tutti.comm._shared import SharedComm
from tutti.errors import RankGone
from tutti.protocols import Link
from tutti.types import Array

_SPINS = 1000  # about 100 us
_YIELDS = 20
_SHORT_SECONDS = 5e-4  # a wait; where they are usually longer, yielding would only burn the core
_FRESH = 0.25  # weight of the last wait in what is usual
_LOOK_SECONDS = 0.05
_NAPS = (50e-6, 1e-3)  # first and longest, where the system has no way to wait for a word

_STRONG_ORDER = platform.machine() in ("x86_64", "AMD64")
"""Processors whose stores are seen in order; others need a fence between data and the word that announces it."""


class ShmComm(SharedComm):
    """A `tutti.protocols.Communicator` between the processes of `tutti.Processes`."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._spins = _SPINS if self._size <= cores else 0
        others = [line for rank, line in enumerate(self._lines) if rank != self._rank]
        self._arrivals = [line + ARRIVED for line in others]
        self._sleepers = [line + SLEEPING for line in others]
        self._fences = (threading.Lock(), threading.Lock())
        self._usual = 0.0  # seconds of a wait that outlasts the spin
        self._payloads: Array | None = None
        self._gathers = 0
        self._membership: Membership | None = None

    def withstand(self) -> None:
        """From now on a call that waits for a lost rank raises `RankGone`; all ranks call it at the same time."""
        self._membership = Membership(cast(ShmLink, self._link))

    def regroup(self) -> tuple[ShmComm, tuple[int, ...]]:
        """Return the communicator of the ranks that are left; see `tutti.protocols.Regrouping`."""
        assert self._membership is not None
        for word in (WAITING, SLEEPING):
            self._board.set(self._rank, word, 0)
        link = self._membership.link
        found = self._membership.regroup(self._meetings, link.allocated)
        comm = ShmComm(link.among(found.left, found.allocated))
        comm._membership, comm._meetings = self._membership, found.meetings
        comm._sent, comm._waited = self._sent, self._waited
        return comm, found.dropped

    def _give_up(self, lost: int) -> NoReturn:
        if lost >= 0 and self._membership is not None and self._board.lost(lost):
            raise RankGone(f"rank {self._rank} waits in a collective call, but rank {lost} was lost")
        super()._give_up(lost)

    def close(self) -> None:
        super().close()
        self._payloads = None

    def _wait(self, target: int) -> None:
        words, arrivals = self._board.words, self._arrivals
        for _ in range(self._spins):
            for arrived in arrivals:
                if words[arrived] < target:
                    break
            else:
                break
        else:
            self._wait_long(target)
        if not _STRONG_ORDER:
            self._fence()

    def _wait_long(self, target: int) -> None:
        board, yields, nap, began = self._board, _YIELDS, _NAPS[0], time.perf_counter()
        patience = 2 * self._usual if self._usual < _SHORT_SECONDS else 0.0
        while late := self._late(target):
            lost = self._lost(late)
            if lost is not None and (lost < 0 or self._late(target)):
                self._give_up(lost)
            if yields > 0 or time.perf_counter() - began < patience:
                os.sched_yield()
                yields -= 1
            elif not board.get(self._rank, SLEEPING):
                board.set(self._rank, SLEEPING, 1)  # and look again: who arrives from now on wakes this rank
                self._fence()
            elif not board.sleep(late[0], target - 1, _LOOK_SECONDS):
                time.sleep(nap)
                nap = min(nap * 1.2, _NAPS[1])
        board.set(self._rank, SLEEPING, 0)
        self._usual += _FRESH * (time.perf_counter() - began - self._usual)

    def _announce(self) -> None:
        if not _STRONG_ORDER:
            self._fence()
        super()._announce()
        with self._fences[0]:  # a full fence in the strong order: who does not see this arrival is seen to sleep
            words = self._board.words
        for sleeping in self._sleepers:
            if words[sleeping]:
                self._board.wake(self._rank)
                break

    def _fence(self) -> None:
        for lock in self._fences:  # release followed by acquire is a full fence on every processor Python runs on
            with lock:
                pass

    def _gather(self, payload: bytes) -> list[bytes]:
        """Short payloads lie in one of two areas used in turn; if one is too long, all ranks move to a larger area."""
        turn, area, length = self._gathers & 1, self._payloads, len(payload)
        self._gathers += 1
        if area is not None and length <= area.shape[2]:
            area[turn, self._rank, :length] = np.frombuffer(payload, np.uint8)
        lengths = [record[N] for record in self._agree(GATHER, length)]
        if area is None or max(lengths) > area.shape[2]:
            width = 1 << max(max(lengths) - 1, 1023).bit_length()
            n_bytes = 2 * self._size * width
            area = self._payloads = self._link.allocate(n_bytes).reshape(2, self._size, width)
            self._allocated += n_bytes
            area[turn, self._rank, :length] = np.frombuffer(payload, np.uint8)
            self._meet()
        return [area[turn, rank, :n].tobytes() for rank, n in enumerate(lengths)]
