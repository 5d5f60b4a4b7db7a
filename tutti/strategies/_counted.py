"""Rounds of a learner that tells whole numbers alone: their sums are exact, so ranks add them as they come."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tutti.counting import Counting
from tutti.errors import PlanError, Regrouped
from tutti.protocols import Worker
from tutti.types import Array, Arrays, Plan, Round, Schema


def plan_counted(compress: Any, learner: Any, schema: Schema, draft: Plan, strategy: str) -> Plan:
    """Return the draft with the strategy's name, and with bytes by rank: shards have no state of their own.

    Raises
    ------
    PlanError : the sums were to travel in another form.
    """
    if compress and compress != "auto":
        raise PlanError(
            f"{type(learner).__name__} adds whole numbers, which must arrive as they are; write "
            f"{strategy}(compress=None) with it"
        )
    cost = learner.cost(schema)
    by_shard = draft.n_shards * (cost.update_bytes + cost.private_bytes)
    return dataclasses.replace(
        draft,
        strategy=strategy,
        tolerant=withstands(draft),
        notes=(*draft.notes, *lost_notes(draft)),
        sent_bytes_per_round=cost.update_bytes * draft.size if draft.size > 1 else 0,
        memory_bytes=draft.memory_bytes - by_shard + cost.private_bytes + 2 * draft.size * cost.update_bytes,
    )


def withstands(draft: Plan) -> bool:
    """Tell whether a run of exact sums goes on where a worker is lost; a thread cannot be lost without the others."""
    return draft.size > 1 and draft.transport == "shm"


def lost_notes(draft: Plan) -> list[str]:
    """Return what the plan says of lost workers."""
    if withstands(draft):
        return ["a worker that is lost leaves its rows to the others, who go on to the same bits"]
    if draft.size == 1 or draft.transport in ("threads", ""):
        return []
    return [f"through {draft.transport!r} a lost worker ends the run"]


class WorkerSums:
    """`tutti.counting.Sums` over the ranks of a run."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self.n_shards = worker, worker.n_shards

    @property
    def alone(self) -> bool:
        return self._worker.size == 1

    def total(self, whole: Array) -> Array:
        return whole if self.alone else self._worker.total(whole)

    def largest(self, values: Array) -> Array:
        if self.alone:
            return values
        rows = [np.frombuffer(one) for one in self._worker.all_gather(np.ascontiguousarray(values).tobytes())]
        found: Array = np.max(rows, axis=0)
        return found

    def room(self, length: int) -> Array:
        return np.empty(length, np.int64) if self.alone else self._worker.room(length)

    def gather(self, payload: bytes) -> list[bytes]:
        return self._worker.all_gather(payload)


def speaks(worker: Worker) -> bool:
    """True for the lowest rank that is left."""
    return worker.lost.issuperset(range(worker.seat.rank))


def counted(worker: Worker, learner: Counting) -> Arrays:
    """Run the learner's rounds on the rows of this rank; returns the last state, the same on every rank."""
    began, step = time.perf_counter(), 0

    def begin() -> Iterator[Arrays]:
        return learner.rounds(worker.schema, worker.shards, WorkerSums(worker), seed=worker.seed, start=worker.start)

    worker.withstand()
    rounds = begin()
    shared: Arrays = {}
    while True:
        try:
            with worker.phase("compute"):
                following = next(rounds, None)
        except Regrouped:
            rounds, step = begin(), 0
            continue
        if following is None:
            return shared
        shared, step = following, step + 1
        worker.at_step(step)
        p = learner.progress(shared)
        if speaks(worker) and not p.done:
            seconds = time.perf_counter() - began
            worker.emit(Round(step, seconds, p.objective, p.gap, p.passes, "counts", p.metrics))
