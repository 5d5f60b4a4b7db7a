"""Rounds of a learner that tells whole numbers alone: their sums are exact, so ranks add them as they come."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from tutti.counting import Counting
from tutti.errors import PlanError
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
        sent_bytes_per_round=cost.update_bytes * draft.size if draft.size > 1 else 0,
        memory_bytes=draft.memory_bytes - by_shard + cost.private_bytes + 2 * draft.size * cost.update_bytes,
    )


class WorkerSums:
    """`tutti.counting.Sums` over the ranks of a run."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.alone, self.n_shards = worker.size == 1, worker.n_shards

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


def counted(worker: Worker, learner: Counting) -> Arrays:
    """Run the learner's rounds on the rows of this rank; returns the last state, the same on every rank."""
    began, step = time.perf_counter(), 0
    rounds = learner.rounds(worker.schema, worker.shards, WorkerSums(worker), seed=worker.seed, start=worker.start)
    shared: Arrays = {}
    while True:
        with worker.phase("compute"):
            following = next(rounds, None)
        if following is None:
            return shared
        shared, step = following, step + 1
        worker.at_step(step)
        p = learner.progress(shared)
        if worker.seat.rank == 0 and not p.done:
            seconds = time.perf_counter() - began
            worker.emit(Round(step, seconds, p.objective, p.gap, p.passes, "counts", p.metrics))
