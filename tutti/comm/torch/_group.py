"""The communicator over a process group of torch.distributed: bytes are what is sent, so that the group need not know
the dtypes; on GPUs they are staged through the device.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from time import perf_counter, sleep
from typing import Any, NoReturn

import numpy as np
import torch

from tutti._board import WAITING
from tutti.comm._partial import PartialComm, Plan, Sum
from tutti.comm.reduction import tree_join, tree_sum
from tutti.protocols import Link
from tutti.types import Array

_LOOK_SECONDS = 0.05
_LEAVE_SECONDS = 0.05
_EXIT_SECONDS = 1.0


class TorchComm(PartialComm):
    """A `tutti.protocols.Communicator` over a process group.

    Parameters
    ----------
    link : what the engine gave to this rank.
    group : a backend of torch.distributed (ProcessGroupGloo, ProcessGroupNCCL); None for a single rank.
    device : the GPU that arrays are staged through, None for gloo.
    """

    def __init__(self, link: Link, group: Any, device: Any = None) -> None:
        super().__init__(link)
        self._group, self._device = group, device

    def _sum(self, parts: Mapping[int, Array], plan: Plan) -> Sum:
        return _FlatSum(self, parts, plan)

    def _gather_into(self, out: Array, mine: Array) -> Callable[[], None]:
        return self._start(out, mine, lambda group, to, given: group._allgather_base(to, given))

    def _exchange(self, out: Array, mine: Array, came: list[int], went: list[int]) -> Callable[[], None]:
        """Start to give to each rank its ``went[rank]`` bytes of ``mine``; ``came[rank]`` of each come into ``out``."""
        return self._start(out, mine, lambda group, to, given: group.alltoall_base(to, given, came, went))

    def _start(self, out: Array, mine: Array, operation: Callable[[Any, Any, Any], Any]) -> Callable[[], None]:
        """Start an operation on bytes; what is returned waits for its end."""
        given, to = torch.from_numpy(mine), torch.from_numpy(out)
        if self._device is not None:
            given, to = given.to(self._device), torch.empty_like(to, device=self._device)
        try:
            work = operation(self._group, to, given)
        except RuntimeError as error:
            self._failed(error)

        def end() -> None:
            self._await(work)
            if self._device is not None:
                out[:] = to.cpu().numpy()

        return end

    def _await(self, work: Any) -> None:
        began, words, waiting = perf_counter(), self._board.words, self._board.line(self._rank) + WAITING
        others = self._others()
        words[waiting], seen = 1, False
        while True:
            done = work.is_completed()
            try:
                self._look(work)
                if work.is_completed():
                    break
            except RuntimeError as error:
                if done:
                    self._failed(error)
            lost = self._lost(others)
            if lost is not None and not done:
                if seen or lost < 0:  # what a rank said before it returned may be on its way
                    self._give_up(lost)
                seen = True
        words[waiting] = 0
        self._waited += perf_counter() - began

    def _look(self, work: Any) -> None:
        """Wait for the work a moment; RuntimeError if it is not done by then (gloo), or if it failed."""
        if self._device is None:
            work.wait(timedelta(seconds=_LOOK_SECONDS))
            return
        deadline = perf_counter() + _LOOK_SECONDS
        while not work.is_completed() and perf_counter() < deadline:
            sleep(50e-6)

    def _leave(self) -> None:
        """Take the group apart, which breaks its connections.

        Gloo does so only when what it waits for has come or another rank has left; that is not waited for here.
        """
        held, self._group = [self._group], None
        leaving = threading.Thread(target=held.clear, name="tutti-leave", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_SECONDS)
        if leaving.is_alive():
            atexit.register(leaving.join, _EXIT_SECONDS)  # a thread inside gloo must not meet the end of Python

    def _failed(self, error: RuntimeError) -> NoReturn:
        self._unconnected("another rank", str(error).splitlines()[0])


class _FlatSum(Sum):
    """Stripes are padded to one length, and copied into one array for each operation of the group."""

    _comm: TorchComm

    def __init__(self, comm: TorchComm, parts: Mapping[int, Array], plan: Plan) -> None:
        super().__init__(comm, parts, plan)
        self._each = self._nodes()

    def _send(self, lo: int, hi: int) -> None:
        comm, width = self._comm, self._width(lo, hi)
        mine = self._each[comm.rank]
        sent = np.empty((comm.size, len(mine), width), self._dtype)
        for rank in range(comm.size):
            a, b = min(lo + rank * width, hi), min(lo + (rank + 1) * width, hi)
            for i, (first, last) in enumerate(mine):
                tree_sum([self._parts[s][a:b] for s in range(first, last)], sent[rank, i, : b - a])
        item = width * self._dtype.itemsize
        came = [len(nodes) * item for nodes in self._each]
        got = np.empty(sum(came) // self._dtype.itemsize, self._dtype)
        went = [len(mine) * item] * comm.size
        end = comm._exchange(got.view(np.uint8), sent.reshape(-1).view(np.uint8), came, went)
        comm._sent += (comm.size - 1) * (len(mine) + 1) * item
        self._travelling.append((lo, hi, got, end))

    def _add(self) -> None:
        lo, hi, got, end = self._travelling.popleft()
        end()
        width = self._width(lo, hi)
        a = min(lo + self._comm.rank * width, hi)
        n = min(width, hi - a)
        rows = got.reshape(-1, width)
        nodes = [node for of_rank in self._each for node in of_rank]
        stripe = np.zeros(width, self._dtype)
        tree_join({node: row[:n] for node, row in zip(nodes, rows, strict=True)}, self._n, stripe[:n])
        total = np.empty(self._comm.size * width, self._dtype)
        end = self._comm._gather_into(total.view(np.uint8), stripe.view(np.uint8))
        self._gathering.append((lo, hi, total, end))

    def _collect(self) -> None:
        lo, hi, total, end = self._gathering.popleft()
        end()
        self._result[lo:hi] = total[: hi - lo]
