"""Task parallelism: the work of a learner is cut into tasks, and whoever is free takes one.

What a task returns is keyed by its number, so the model does not depend on who performed what, or when.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tutti._parcel import payload, value_of
from tutti._spec import Spec
from tutti.errors import ParameterError, PlanError
from tutti.protocols import Learner, ShardData, Worker
from tutti.seeds import generator
from tutti.strategies._dealer import Dealer
from tutti.strategies._dealt import dealt
from tutti.strategies._spread import exchanged
from tutti.tasking import Room, Tasked
from tutti.types import Array, Arrays, Kind, Plan, Round, Schema, Stage, TaskDone

Assign = Literal["balanced", "round_robin", "random", "static"]

_IN_MEMORY = ("threads", "shm", "")
_TELL_SECONDS = 0.1
_HOW = {
    "balanced": "taken by whoever is free, the largest first",
    "round_robin": "dealt one by one",
    "random": "dealt at random",
    "static": "dealt in runs of neighbours",
}


@dataclass(frozen=True)
class TaskParallel(Spec):
    """Deal the tasks of a learner (trees, pairs of classes, subsets of rows) to workers, stage by stage.

    Workers on one host read the same rows and write their results where all see them; a worker that is lost leaves
    tasks that the others do.  Over sockets every worker reads the rows itself, results travel at the end of each
    stage, and all ``assign`` are decided in advance.

    Parameters
    ----------
    assign : who performs which task: "balanced": whoever is free takes the largest one that is left, but a slow worker
        leaves the last ones to quicker ones; "round_robin": task i goes to worker i modulo their number; "random": so,
        but in a shuffled order; "static": every worker gets a run of neighbours.  It changes no bit of the model.

    Example
    -------
    >>> TaskParallel(assign="static").get_params()
    {'assign': 'static'}
    """

    assign: Assign = "balanced"

    def __post_init__(self) -> None:
        if self.assign not in get_args(Assign):
            raise ParameterError("assign", self.assign, f"write one of {', '.join(map(repr, get_args(Assign)))}")

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"part"})

    @property
    def deals(self) -> bool:
        """True: what feeds workers is tasks, not shards, and every worker may read any shard."""
        return True

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with the tasks; no more workers than the largest stage has tasks.

        Raises
        ------
        PlanError : the learner's work is not tasks.
        """
        if not isinstance(learner, Tasked):
            raise PlanError(
                f"TaskParallel deals tasks, but {type(learner).__name__} offers {', '.join(sorted(learner.offers))}; "
                'use strategy="auto"'
            )
        outline = learner.outline(schema)
        size = max(min(draft.size, max(map(len, outline.values()), default=1)), 1)
        notes = list(draft.notes)
        if size < draft.size:
            notes.append(f"{draft.size} workers were asked for, {size} have work: no stage has more tasks")
        shared_memory = draft.transport in _IN_MEMORY
        stages = []
        for name, costs in outline.items():
            ranks = self.ranks(len(costs), size, 0, 0)
            if ranks is None and not shared_memory:
                ranks = by_cost(costs, size)
            stages.append(
                Stage(name, tuple(map(float, costs)), None if ranks is None else tuple(ranks), _HOW[self.assign])
            )
        if not shared_memory and size > 1:
            notes.append(
                f"through {draft.transport!r} workers see no common memory: each reads all rows that its tasks need, "
                "tasks are dealt in advance, and a lost worker ends the run"
            )
        seats = tuple(
            dataclasses.replace(seat, shards=tuple(dealt(draft.n_shards, size, seat.rank)))
            for seat in draft.seats[:size]
        )
        return dataclasses.replace(
            draft,
            strategy=type(self).__name__,
            seats=seats,
            stages=tuple(stages),
            notes=tuple(notes),
            tolerant=shared_memory and size > 1,
            sent_bytes_per_round=draft.sent_bytes_per_round if size > 1 else 0,
        )

    def ranks(self, n: int, size: int, stage: int, seed: int) -> list[int] | None:
        """Return the rank that each of ``n`` tasks is dealt to; None if whoever is free takes them."""
        if self.assign == "balanced":
            return None
        if self.assign == "static":
            return [r for r in range(size) for _ in dealt(n, size, r)]
        ranks = [task % size for task in range(n)]
        if self.assign == "random":
            return [ranks[i] for i in generator(seed, step=stage, purpose="deal").permutation(n)]
        return ranks

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Perform tasks, stage by stage, until there are none."""
        assert isinstance(learner, Tasked)  # the plan has seen to it
        return _Tasks(self, worker, learner).run()


def by_cost(costs: Sequence[float], size: int) -> list[int]:
    """Return a rank for each task: the largest first, each to the rank that has least to do."""
    load, ranks = [0.0] * size, [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda t: -costs[t]):
        ranks[task] = load.index(min(load))
        load[ranks[task]] += costs[task]
    return ranks


class _Tasks:
    """The program of a rank; it is the `tutti.tasking.Rows` of its tasks, too."""

    def __init__(self, strategy: TaskParallel, worker: Worker, learner: Tasked) -> None:
        self._strategy, self._worker, self._learner = strategy, worker, learner
        self.schema, self.n_shards = worker.schema, worker.n_shards
        self._rooms: dict[str, Array] = {}
        self._began, self._performed, self._told = time.perf_counter(), 0, 0.0
        self._commons = worker.commons() if worker.size > 1 else None
        self._dealer = None if self._commons is None else Dealer(self._commons, worker.seat.rank, worker.size)

    def shard(self, i: int) -> ShardData:
        """Return the rows of any shard."""
        return self._worker.open(i)

    def common(self, name: str) -> Array:
        """Return a room."""
        return self._rooms[name]

    def alive(self) -> None:
        """Say that a task is at work."""
        self._worker.at_step(self._performed)

    def hands(self) -> int:
        """Return how many threads a task may use; over sockets its own only, for the others have work of their own."""
        return 1 if self._dealer is None else self._dealer.hands()

    def run(self) -> Arrays:
        """Return what is assembled when no task is left."""
        worker, learner = self._worker, self._learner
        shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
        stage = 0
        while costs := list(learner.tasks(shared)):
            rooms = learner.rooms(shared)
            self._make(rooms)
            if self._dealer is not None:
                shared = self._together(self._dealer, shared, stage, costs)
            elif worker.size == 1 or rooms:
                parts = [self._perform(shared, task, stage, len(costs), task) for task in range(len(costs))]
                shared = learner.assemble(shared, parts)
            else:
                shared = self._apart(shared, stage, costs)
            stage += 1
            self._tell(shared, stage, len(costs))
        worker.count("tasks", self._performed)
        return shared

    def _make(self, rooms: Mapping[str, Room]) -> None:
        for name, room in rooms.items():
            if name not in self._rooms:
                dtype = np.dtype(room.dtype)
                n_bytes = int(np.prod(room.shape, dtype=np.int64)) * dtype.itemsize
                memory = np.empty(n_bytes, np.uint8) if self._commons is None else self._commons.memory(n_bytes)
                self._rooms[name] = memory[:n_bytes].view(dtype).reshape(room.shape)

    def _perform(self, shared: Arrays, task: int, stage: int, n: int, done: int) -> Arrays:
        with self._worker.phase("compute"):
            part = self._learner.perform(shared, task, self)
        self._performed += 1
        self._worker.at_step(self._performed)
        now = time.perf_counter() - self._began
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._worker.emit(TaskDone(stage, task, done + 1, n, now))
        return part

    def _together(self, dealer: Dealer, shared: Arrays, stage: int, costs: list[float]) -> Arrays:
        """Take tasks one by one; all parts lie in memory that every rank sees."""
        size, seed = self._worker.size, self._worker.seed
        dealer.begin(costs, self._strategy.ranks(len(costs), size, stage, seed))
        while (task := dealer.take()) is not None:
            dealer.give(task, self._perform(shared, task, stage, len(costs), dealer.done))
        with self._worker.phase("assemble"):
            return dealer.leave(self._learner.assemble(shared, dealer.parts()))

    def _apart(self, shared: Arrays, stage: int, costs: list[float]) -> Arrays:
        """Do what is dealt to this rank; then all send each other what they have."""
        worker, n = self._worker, len(costs)
        ranks = self._strategy.ranks(n, worker.size, stage, worker.seed) or by_cost(costs, worker.size)
        own = [task for task in range(n) if ranks[task] == worker.seat.rank]
        parts = {task: self._perform(shared, task, stage, n, i * worker.size) for i, task in enumerate(own)}
        found: dict[int, Arrays] = {}
        for sent in exchanged(worker, b"".join(payload({str(t): dict(part) for t, part in parts.items()}))):
            found.update({int(task): part for task, part in value_of(sent).items()})
        with worker.phase("assemble"):
            return self._learner.assemble(shared, [found[task] for task in range(n)])

    def _tell(self, shared: Arrays, stage: int, n: int) -> None:
        worker = self._worker
        if worker.seat.rank == min(set(range(worker.size)) - worker.lost):
            p = self._learner.progress(shared)
            seconds = time.perf_counter() - self._began
            metrics = {"tasks": float(n), **p.metrics}
            worker.emit(Round(stage, seconds, p.objective, p.gap, p.passes, "part", metrics))
