"""A backend of torch.distributed in shared memory: what DDP needs, between the processes of one host.

The segment has no name: rank 0 tells the others through the store where its descriptor is, so it is gone with the last
process, however that ends.  Calls are done when they return; a rank whose process has ended, or that does not come
within the time-out of the group, raises in all others.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future  # type: ignore[attr-defined]

from tutti._arena import Arena, ShmLink
from tutti._board import Board
from tutti.comm.shm import ShmComm
from tutti.errors import RunError
from tutti.types import Array

_ARENA_BYTES = 1 << 40  # address space; only touched pages cost memory
_SMALL, _LARGE = 1 << 12, 1 << 20  # bytes a rank brings to one call; a tensor is cut, so that the segment stays small
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_OPS: dict[Any, Callable[[Any, Any], Any]] = {
    dist.ReduceOp.MIN: torch.minimum,
    dist.ReduceOp.MAX: torch.maximum,
    dist.ReduceOp.PRODUCT: torch.mul,
    dist.ReduceOp.BAND: torch.bitwise_and,
    dist.ReduceOp.BOR: torch.bitwise_or,
    dist.ReduceOp.BXOR: torch.bitwise_xor,
}
_SUMMED = (torch.float32, torch.float64, torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


def register() -> None:
    if "tutti" not in dist.Backend.backend_list:
        dist.Backend.register_backend("tutti", TuttiGroup, devices=["cpu"])


class _Comm(ShmComm):
    """A communicator that has no engine: it looks itself whether the others live."""

    def __init__(self, link: ShmLink, pids: Sequence[int], seconds: float) -> None:
        super().__init__(link)
        self._seconds, self._deadline = seconds, 0.0
        self._pidfds = {os.pidfd_open(pid): rank for rank, pid in enumerate(pids) if rank != link.rank}
        self._poll = select.poll()
        for fd in self._pidfds:
            self._poll.register(fd, select.POLLIN)

    def close(self) -> None:
        super().close()
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds.clear()

    def _wait_long(self, target: int) -> None:
        self._deadline = monotonic() + self._seconds
        super()._wait_long(target)

    def _lost(self, late: list[int]) -> int | None:
        for fd, _ in self._poll.poll(0):
            if self._pidfds[fd] in self._late(self._meetings):
                self._broken(f"rank {self._rank}: the process of rank {self._pidfds[fd]} has ended")
        if monotonic() > self._deadline:
            self._broken(f"rank {self._rank}: ranks {late} did not come within {self._seconds:g} s")
        return super()._lost(late)


class TuttiGroup(dist.ProcessGroup):  # type: ignore[misc]
    """A process group in shared memory; torch makes it for ``init_process_group("tutti")``."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._me, self._n = rank, size
        fd = self._memory(store)
        arena = Arena(fd)
        board = Board(arena.words(size), size)
        if rank == 0:
            board.clear()
        store.set(f"tutti/{rank}", str(os.getpid()))
        pids = [int(store.get(f"tutti/{other}")) for other in range(size)]  # nobody goes on before all have the memory
        self._comm = _Comm(ShmLink(arena, board, rank, size), pids, timeout.total_seconds())
        self._arena = arena

    def _memory(self, store: Any) -> int:
        """Return a descriptor of the segment, which rank 0 makes."""
        boot = _BOOT.read_text().strip()
        if self._me == 0:
            fd = os.memfd_create("tutti")
            os.ftruncate(fd, _ARENA_BYTES)
            store.set("tutti/memory", f"{boot} /proc/{os.getpid()}/fd/{fd}")
            return fd
        host, path = store.get("tutti/memory").decode().split()
        if host != boot:
            raise RunError(
                f'rank {self._me} is not on the host of rank 0, and the backend "tutti" is shared memory; '
                'use "gloo" between hosts'
            )
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def getBackendName(self) -> str:
        return "tutti"

    def allreduce(self, tensors: list[Any], opts: Any = None) -> Any:
        for tensor in tensors:
            self._reduce(tensor, _op(opts))
        return _done(tensors)

    def allreduce_coalesced(self, tensors: list[Any], opts: Any = None) -> Any:
        return self.allreduce(tensors, opts)

    def broadcast(self, tensors: list[Any], opts: Any = None) -> Any:
        for tensor in tensors:
            _through(tensor, lambda flat: self._spread(_bytes(flat), opts.rootRank))
        return _done(tensors)

    def allgather(self, outputs: list[list[Any]], inputs: list[Any], opts: Any = None) -> Any:
        for to, tensor in zip(outputs, inputs, strict=True):
            for target, row in zip(to, self._rows(tensor), strict=True):
                target.detach().copy_(row)
        return _done(outputs)

    def all_gather_single(self, output: Any, tensor: Any, opts: Any = None) -> Any:
        return self.allgather([list(output.view(self._n, *tensor.shape))], [tensor])

    def reduce_scatter(self, outputs: list[Any], inputs: list[list[Any]], opts: Any = None) -> Any:
        for output, given in zip(outputs, inputs, strict=True):
            for rank, tensor in enumerate(given):
                total = tensor.detach().clone()
                self._reduce(total, _op(opts))
                if rank == self._me:
                    output.detach().copy_(total)
        return _done(outputs)

    def reduce_scatter_single(self, output: Any, tensor: Any, opts: Any = None) -> Any:
        total = tensor.detach().clone()
        self._reduce(total, _op(opts))
        output.detach().copy_(total.view(self._n, *output.shape)[self._me])
        return _done([output])

    _allgather_base, _reduce_scatter_base = all_gather_single, reduce_scatter_single

    def barrier(self, opts: Any = None) -> Any:
        self._comm.barrier()
        return _done([])

    def abort(self) -> None:
        self._comm.abort()

    def shutdown(self) -> None:
        self._comm.close()

    def _reduce(self, tensor: Any, op: Any) -> None:
        if op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            if tensor.dtype in _SUMMED:
                _through(tensor, lambda flat: self._sum(flat.numpy()))
            else:
                wide = tensor.detach().to(torch.float32 if tensor.is_floating_point() else torch.int32)
                self._sum(wide.view(-1).numpy())
                tensor.detach().copy_(wide)
            if op == dist.ReduceOp.AVG:
                tensor.detach().div_(self._n)
            return
        if op not in _OPS:
            raise ValueError(
                f'the backend "tutti" cannot reduce with {op}; it knows SUM, AVG, MIN, MAX, PRODUCT, BAND, BOR, BXOR'
            )
        total, *rest = self._rows(tensor)
        for row in rest:
            total = _OPS[op](total, row)
        tensor.detach().copy_(total)

    def _sum(self, array: Array) -> None:
        """Sum over the ranks, in place; short arrays go padded, so that there are few sizes of buffers."""
        if array.nbytes > _SMALL:
            self._comm.all_reduce_into({self._me: array}, self._n, array)
            return
        padded = np.zeros(_SMALL // array.itemsize, array.dtype)
        padded[: len(array)] = array
        array[:] = self._comm.all_reduce({self._me: padded}, self._n)[: len(array)]

    def _spread(self, array: Array, root: int) -> None:
        """Give the bytes of ``root`` to all, in place: a sum of one shard."""
        for lo in range(0, len(array), _LARGE):
            piece = array[lo : lo + _LARGE]
            padded = np.zeros(_SMALL if len(piece) <= _SMALL else _LARGE, np.uint8)
            padded[: len(piece)] = piece
            piece[:] = self._comm.all_reduce({0: padded} if self._me == root else {}, 1)[: len(piece)]

    def _rows(self, tensor: Any) -> list[Any]:
        """Return the tensors of all ranks."""
        mine = _bytes(tensor.detach().contiguous().view(-1))
        tensors = [torch.empty(tensor.shape, dtype=tensor.dtype) for _ in range(self._n)]
        found = [_bytes(other.view(-1)) for other in tensors]
        for lo in range(0, len(mine), _LARGE):
            piece = mine[lo : lo + _LARGE]
            padded = np.zeros(_SMALL if len(piece) <= _SMALL else _LARGE, np.uint8)
            padded[: len(piece)] = piece
            for row, came in zip(found, self._comm.share({self._me: padded}, self._n), strict=True):
                row[lo : lo + len(piece)] = came[: len(piece)]
        return tensors


def _op(opts: Any) -> Any:
    return dist.ReduceOp.SUM if opts is None else opts.reduceOp.op if hasattr(opts.reduceOp, "op") else opts.reduceOp


def _bytes(flat: Any) -> Array:
    found: Array = flat.view(torch.uint8).numpy()
    return found


def _through(tensor: Any, change: Callable[[Any], None]) -> None:
    """Have the flat contents of a tensor changed in place."""
    inner = tensor.detach()
    if inner.is_contiguous():
        change(inner.view(-1))
        return
    copy = inner.contiguous()
    change(copy.view(-1))
    inner.copy_(copy)


def _done(result: Any) -> Any:
    future: Any = torch.futures.Future()
    future.set_result(result)
    return _create_work_from_future(future)
