"""The program of every rank: open the transport and the shards, run the strategy, report what was measured."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import numpy as np

from tutti._board import STEP
from tutti.calling import Calls
from tutti.comm.reduction import Layout, tree_sum
from tutti.errors import RankGone, Regrouped
from tutti.forms import Compress
from tutti.protocols import (
    Claims,
    Commons,
    Communicator,
    Compressible,
    Learner,
    Movable,
    RankContext,
    Regrouping,
    ShardData,
    SharingMemory,
    Strategy,
    Streaming,
)
from tutti.runtime.checkpoint import Checkpoint, Writer, falls, pack, split, unpack
from tutti.runtime.compressed import Compressed, Projected, compressed
from tutti.runtime.early import Early
from tutti.runtime.link import chosen_for
from tutti.runtime.speaker import Speaker
from tutti.strategies._dealt import dealt_again
from tutti.types import Array, Arrays, Event, Fault, Note, RankReport, Ready, Schema, Seat, Update

_PIECE = 1 << 22


class RankWorker:
    """A `tutti.protocols.Worker`: what the strategy sees of the rank it runs on."""

    def __init__(
        self,
        ctx: RankContext,
        comm: Communicator,
        shards: Mapping[int, ShardData],
        schema: Schema,
        n_shards: int,
        seed: int,
        start: Arrays | None,
        writer: Speaker | None = None,
        open_shard: Callable[[int], ShardData] | None = None,
        shared_rows: bool = True,
        checkpoint: Checkpoint | None = None,
        job: str = "",
    ) -> None:
        self._ctx, self._comm, self._writer, self._checkpoint = ctx, comm, writer, checkpoint
        self.shards, self.schema, self.n_shards, self.seed = shards, schema, n_shards, seed
        self.start, kept = split(start)
        self.private = {s: {name: np.array(a) for name, a in kept.get(s, {}).items()} for s in shards}
        self.job = job
        """`checkpoint.fingerprint` of the training."""
        self._open, self._opened = open_shard if shared_rows else None, dict(shards)
        self._adopt = open_shard
        self._commons: Commons | None = None
        self.counts: dict[str, float] = {}
        self.seconds = {"read": 0.0, "compute": 0.0, "exchange": 0.0, "wait": 0.0}
        self.rounds = 0
        self._sharing: tuple[Layout, Array, dict[int, dict[str, Array]]] | None = None
        self._layouts: dict[Any, tuple[Layout, Array, dict[int, dict[str, Array]]]] = {}
        self._early: Early | None = None
        self._compressed: Compressed | Projected | None = None

    @property
    def seat(self) -> Seat:
        return self._ctx.seat

    @property
    def size(self) -> int:
        """Number of ranks; of those that are left, after they have regrouped."""
        return self._comm.size

    @property
    def lost(self) -> frozenset[int]:
        """Ranks that a tolerant run has lost for good; they have ended and write nothing any more."""
        return frozenset(filter(self._ctx.link.board.lost, range(self._ctx.link.size)))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a ``with`` block to the phase ``name`` of this rank's report, exchanges inside it apart."""
        began = time.perf_counter() - self._elsewhere()
        try:
            yield
        finally:
            ended = time.perf_counter() - self._elsewhere()
            self.seconds[name] = self.seconds.get(name, 0.0) + ended - began

    def measured(self) -> dict[str, float]:
        """Return the seconds of this rank by phase."""
        waited = self._commons.waited if self._commons else 0.0
        return {**self.seconds, "wait": self.seconds["wait"] + waited}

    def _elsewhere(self) -> float:
        return self.seconds["exchange"] + self.seconds["wait"] + (self._commons.waited if self._commons else 0.0)

    def buffers(self, template: Arrays) -> dict[int, dict[str, Array]]:
        """Return, for each shard, arrays like ``template`` that `merge` and `share` take without a copy."""
        return self.slots(template)[2]

    def early(self, template: Arrays) -> Ready | None:
        """Return what tells that elements of `buffers` are final, so that they travel before `merge` is called.

        All ranks call it at the same time; None where nothing can travel in advance.
        """
        comm = self._comm
        if not isinstance(comm, Streaming) or comm.size == 1 or self._compressed is not None:
            return None
        layout, slots, _ = self.slots(template)
        rows = {s: slots[s] for s in self.shards}
        early = self._early = Early(layout, lambda: comm.begin(rows, self.n_shards), len(rows))

        def ready(name: str, start: int, stop: int) -> None:
            if early.note(name, start, stop):
                with self._exchange():
                    early.send()

        return ready

    def compress(self, by: Compress, learner: Learner) -> Learner | None:
        """Have `merge` take what updates call lossy in this form; None if that would not pay, or cannot be."""
        chosen = chosen_for(learner, self._comm, self) if by == "auto" else by
        if not chosen or not isinstance(learner, Compressible):
            return None
        self._compressed = compressed(chosen, self._comm, self)
        return learner.whole()

    def merge(self, updates: Mapping[int, Update]) -> Update:
        """Sum the updates of all shards of all ranks in the canonical tree."""
        first = next(iter(updates.values()))
        if self._compressed is not None and first.lossy:
            with self._exchange():
                self.rounds += 1
                return Update(first.kind, self._compressed.sum(updates))
        with self._exchange():
            layout, slots, views = self.slots(first.arrays)
            for s, update in updates.items():
                layout.pack(update.arrays, slots[s], views[s])
            if self._early is not None and self._early.layout is layout:
                total = self._early.finish()
            else:
                total = self._comm.all_reduce({s: slots[s] for s in updates}, self.n_shards)
            self.rounds += 1
            return Update(first.kind, layout.views(total))

    @property
    def shares_memory(self) -> bool:
        """True if all ranks see the same memory, and write what they tell each other there as it is."""
        return self._comm.shares_memory and self._compressed is None

    def memory(self, n_bytes: int) -> Array:
        """Return memory that all ranks see; all ask for the same in the same order."""
        assert isinstance(self._comm, SharingMemory)
        return self._comm.memory(n_bytes)

    def claim(self) -> Claims | None:
        """Return what decides at run time who works on which shard; None where each rank does its own."""
        if self._open is None or not isinstance(self._comm, SharingMemory):
            return None
        return self._comm.claims(tuple(self.shards), self.n_shards)

    def commons(self) -> Commons | None:
        """Return what ranks that each go at their own pace have in common; None where they see no common memory."""
        self._commons = self._comm.commons() if isinstance(self._comm, SharingMemory) else None
        return self._commons

    def calls(self) -> Calls | None:
        """Return how ranks ask one another; None where they share memory or move in step."""
        return self._comm if isinstance(self._comm, Calls) else None

    @property
    def opens(self) -> bool:
        """True if `open` returns the rows of any shard."""
        return self._open is not None

    @property
    def keeps(self) -> int | None:
        """Steps after which states are kept, 0 if the clock decides; None if none are."""
        return None if self._checkpoint is None else self._checkpoint.every_steps or 0

    def count(self, name: str, value: float) -> None:
        """Note a number for this rank's report."""
        self.counts[name] = value

    def open(self, shard: int) -> ShardData:
        """Return the rows of any shard, of another rank's, too, where shards are claimed."""
        found = self._opened.get(shard)
        if found is None:
            assert self._open is not None
            with self.phase("read"):
                found = self._opened[shard] = self._open(shard)
        return found

    def share(self, updates: Mapping[int, Update]) -> Shared:
        """Let every rank read the updates of all shards where they lie, until `meet`."""
        with self._exchange():
            if updates:
                self._sharing = self.slots(next(iter(updates.values())).arrays)
            assert self._sharing is not None  # every rank works on its own shards first
            layout, slots, views = self._sharing
            for s, update in updates.items():
                layout.pack(update.arrays, slots[s], views[s])
            rows = self._comm.share({s: slots[s] for s in updates}, self.n_shards)
            self.rounds += 1
            return Shared(layout, rows)

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return the bytes that every rank gave, by rank."""
        with self._exchange():
            return self._comm.all_gather(payload)

    def room(self, length: int) -> Array:
        """Return int64 memory that `total` takes without a copy."""
        found: Array = self._comm.slots(self.size, length, np.int64)[self._comm.rank]
        return found

    def total(self, whole: Array) -> Array:
        """Return the sum of one array (length,) of int64 of every rank, exact in any order."""
        with self._exchange():
            self.rounds += 1
            return self._comm.all_reduce({self._comm.rank: whole}, self.size)

    def meet(self) -> None:
        """Return when every rank is here."""
        with self._exchange():
            self._comm.barrier()

    def withstand(self) -> None:
        """From now on `total`, `all_gather` and `meet` raise `Regrouped` where a rank was lost and the others go on."""
        if isinstance(self._comm, Regrouping) and self.size > 1:
            self._comm.withstand()

    @property
    def sent_bytes(self) -> int:
        """Bytes that this rank wrote or sent for others."""
        return self._comm.sent_bytes

    def _regroup(self) -> Regrouped:
        """Go on with the ranks that are left: take over some of the shards that others have left behind."""
        assert isinstance(self._comm, Regrouping)
        assert self._adopt is not None
        self._comm, dropped = self._comm.regroup()
        held = dealt_again(self.n_shards, dropped)
        rank, last = self.seat.rank, max(dropped)
        taken = {s: self._adopt(s) for s in held[rank] if s not in self.shards}
        self.shards = {**self.shards, **taken}
        gone = ", ".join(str(r) for r, generation in enumerate(dropped) if generation == last)
        step = self._ctx.link.board.get(rank, STEP)
        message = (
            f"rank {gone} was lost after step {max(step, 0)}; {self.size} go on with the rows of all shards, and what "
            "was not whole yet is done again"
        )
        if rank == dropped.index(0):
            self.emit(Note(message))
        return Regrouped(message, self.shards, self._comm.rank, self.size)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        began, waited = time.perf_counter(), self._comm.wait_seconds
        try:
            yield
        except RankGone as error:
            raise self._regroup() from error
        finally:
            waited = self._comm.wait_seconds - waited
            self.seconds["wait"] += waited
            self.seconds["exchange"] += time.perf_counter() - began - waited

    def emit(self, event: Event) -> None:
        self._ctx.emit(event)

    def at_step(self, step: int) -> None:
        self._ctx.at_step(step)

    def keep(self, step: int, state: Callable[[], Arrays], best: bool) -> None:
        """Offer the state for a checkpoint; one rank writes for all, since the state is the same everywhere."""
        if self._writer is not None:
            self._writer.offer(step, state, best)

    def overdue(self) -> bool:
        """Tell whether this rank's clock asks for a checkpoint; only the rank that writes them looks."""
        return self._writer is not None and self._writer.overdue()

    def due(self, step: int, steps: int = 1) -> bool:
        """Tell whether a checkpoint falls into the last ``steps`` steps; the same on every rank."""
        return self._checkpoint is not None and falls(self._checkpoint, step, steps)

    def keep_all(
        self, step: int, state: Callable[[], Arrays], best: bool, private: Mapping[int, Arrays] | None = None
    ) -> None:
        """Write a checkpoint now, with what is private to all shards; all ranks call it at the same step.

        Parameters
        ----------
        private : of the shards hosted here, besides what is in `private`.
        """
        if self._checkpoint is None:
            return
        more = private or {}
        payloads = self._gathered(pack({s: {**own, **more.get(s, {})} for s, own in self.private.items()}))
        if self._writer is not None and self._writer.writes:
            found = {name: array for payload in payloads for name, array in unpack(payload).items()}
            self._writer.write(step, lambda: {**state(), **found}, best)

    def _gathered(self, payload: bytes) -> list[bytes]:
        """Return long payloads of all ranks, in pieces, for communicators may keep the room that they once needed."""
        longest = max(int.from_bytes(n) for n in self.all_gather(len(payload).to_bytes(8)))
        found = [bytearray() for _ in range(self.size)]
        for at in range(0, longest, _PIECE):
            for rank, piece in enumerate(self.all_gather(payload[at : at + _PIECE])):
                if self._writer is not None and self._writer.writes:
                    found[rank] += piece
        return [bytes(joined) for joined in found]

    def slots(self, template: Arrays) -> tuple[Layout, Array, dict[int, dict[str, Array]]]:
        """Return how arrays like ``template`` lie in a row, the rows of all shards, and the arrays in each of them."""
        key = frozenset((name, a.shape, a.dtype.char) for name, a in template.items())
        found = self._layouts.get(key)
        if found is None:
            layout = Layout(template)
            slots = self._comm.slots(self.n_shards, layout.length, layout.dtype)
            found = layout, slots, {s: layout.views(slots[s]) for s in range(self.n_shards)}
            self._layouts[key] = found
        return found


class Shared:
    """What all shards gave, where it lies; see `tutti.protocols.Shares`."""

    def __init__(self, layout: Layout, rows: Sequence[Array]) -> None:
        self._places = {name: (where.start, where.stop) for name, where in layout.places()}
        self._rows = rows

    def sum(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        """Return the canonical sum over all shards of columns start:stop of an array, in ``out`` if given."""
        first, last = self._places[name]
        lo, hi = first + start, last if stop is None else first + stop
        return tree_sum([row[lo:hi] for row in self._rows], out)


def fit_rank(
    ctx: RankContext,
    *,
    learner: Learner,
    strategy: Strategy,
    dataset: Any,
    schema: Schema,
    n_shards: int,
    seed: int,
    start: Arrays | None,
    checkpoint: Checkpoint | None = None,
    job: str = "",
    tolerant: bool = False,
) -> tuple[dict[str, Array] | None, RankReport]:
    """Train on the shards of this rank's seat; one rank returns the shared state (`Speaker`), every rank its report."""
    from tutti.comm import connect

    with ExitStack() as stack:
        comm = connect(ctx.link, calls=bool(ctx.seat.role))
        stack.callback(comm.close)
        opened = time.perf_counter()

        def open_shard(s: int) -> ShardData:
            opened = dataset.open(s, n_shards, schema)
            stack.callback(opened.close)
            return cast(ShardData, opened)

        shards = {s: open_shard(s) for s in ctx.seat.shards}

        def write(spec: Checkpoint) -> Writer:
            return Writer(spec, job, lambda message: ctx.emit(Fault(message)))

        speaker = Speaker(ctx, tolerant, None if checkpoint is None else partial(write, checkpoint))
        stack.callback(speaker.close)
        # rows that would be read anew at every step are left where they are
        seen = dataset.keeps(schema) == "memory" or getattr(strategy, "deals", False)
        worker = RankWorker(
            ctx, comm, shards, schema, n_shards, seed, start, speaker, open_shard, seen, checkpoint, job
        )
        worker.seconds["read"] += time.perf_counter() - opened
        placed = learner.on(ctx.seat.place.device) if isinstance(learner, Movable) else learner
        arrays = strategy.run(worker, placed)
        speaker.wait()
        report = RankReport(
            rank=ctx.seat.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            seconds=worker.measured(),
            sent_bytes=worker.sent_bytes,
            rounds=worker.rounds,
            counts=worker.counts,
        )
        return (dict(arrays) if speaker.returns() else None), report
