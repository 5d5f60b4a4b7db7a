"""`train`: draft the plan, launch the program of every rank, collect what came out.

The four choices meet here and nowhere else: learner, strategy, engine and dataset, none of which knows the others.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

from tutti.errors import ParameterError, RunError
from tutti.protocols import Engine, Learner, Program, Strategy
from tutti.runtime.checkpoint import Checkpoint
from tutti.strategies._dealt import dealt
from tutti.transforms import prepare
from tutti.types import Arrays, Event, Fault, Note, Plan, Result, Round, Schema, Seat


def draft_plan(
    dataset: Any, schema: Schema, learner: Learner, strategy: Strategy, engine: Engine, n_shards: int
) -> Plan:
    """Return the complete plan of a fit; nothing is started and no row is read.

    Shards are dealt to ranks in contiguous groups (neighbours in the reduction tree stay together).

    Raises
    ------
    ParameterError : n_shards < 1.
    PlanError : strategy and learner make no sense together, or the data does not fit the memory cap.
    """
    if not isinstance(n_shards, int) or n_shards < 1:
        raise ParameterError("n_shards", n_shards, "write a whole number of at least 1 (the default is 8)")
    places = engine.places()
    wanted = engine.n if engine.n is not None else sum(p.cores for p in places)
    deals = getattr(strategy, "deals", False)  # then the strategy knows how many have work
    size = wanted if deals else min(wanted, n_shards)
    slots = [p for p in places for _ in range(p.cores)]
    seats = tuple(Seat(r, slots[r % len(slots)], tuple(dealt(n_shards, size, r))) for r in range(size))
    cost = learner.cost(schema)
    notes = []
    if wanted > size:
        notes.append(f"{wanted} workers were asked for, {size} have work: a job of {n_shards} shards feeds no more")
    kept = dataset.keeps(schema)
    if kept is None:
        notes.append("the data is streamed: every pass reads it again (Dataset.cached('memory' | 'disk') keeps it)")
    plan = Plan(
        strategy=type(strategy).__name__,
        engine=type(engine).__name__,
        learner=type(learner).__name__,
        reason="chosen by the caller",
        seats=seats,
        n_shards=n_shards,
        shard_rows=tuple(dataset.shard_rows(n_shards, schema)),
        sent_bytes_per_round=cost.update_bytes * n_shards if size > 1 else 0,
        rounds=cost.rounds,
        memory_bytes=(schema.n_bytes if kept == "memory" else 0) + n_shards * (cost.update_bytes + cost.private_bytes),
        notes=tuple(notes),
        transport=getattr(engine, "transport", ""),
    )
    return strategy.plan(schema, learner, plan)


def train(
    learner: Learner,
    dataset: Any,
    *,
    schema: Schema,
    strategy: Strategy,
    engine: Engine,
    plan: Plan | None = None,
    n_shards: int = 8,
    seed: int = 0,
    start: Arrays | None = None,
    watch: Callable[[Event], None] | None = None,
    checkpoint: Checkpoint | None = None,
    job: str = "",
) -> Result:
    """Train ``learner`` on ``dataset`` and return the shared state with what was measured.

    Parameters
    ----------
    plan : what `draft_plan` returned; drafted here if None.
    seed : base of every random number of the run.
    start : shared arrays to start from (warm start).
    watch : called with each event in the caller's thread.
    checkpoint : when and where to write the state; needs a `Trainable` learner.
    job : `checkpoint.fingerprint` of the training, written into its checkpoints.

    Raises
    ------
    InputError : the data or a parameter is wrong.
    RankError, RankLost : a rank failed; the others were stopped and nothing is left behind.
    """
    plan = plan or draft_plan(dataset, schema, learner, strategy, engine, n_shards)
    began = time.perf_counter()
    learner.prepare(schema)
    prepare(getattr(strategy, "compress", None))
    heard = _Heard(watch)
    program = Program(
        "tutti.runtime.worker:fit_rank",
        {
            "learner": learner,
            "strategy": strategy,
            "dataset": dataset.settled(plan.n_shards, schema),
            "schema": schema,
            "n_shards": plan.n_shards,
            "seed": seed,
            "start": None if start is None else dict(start),
            "checkpoint": checkpoint,
            "job": job,
            "tolerant": plan.tolerant,
        },
    )
    outcome = engine.launch(program, plan).results(watch=heard)
    came_back = [found for found in outcome if found is not None]
    arrays = next((arrays for arrays, _ in came_back if arrays), None)
    if arrays is None:
        raise RunError("no rank returned the model: those that had it were lost")
    return Result(
        arrays=arrays,
        history=tuple(heard.history),
        reports=tuple(report for _, report in came_back),
        progress=learner.progress(arrays),
        seconds=time.perf_counter() - began,
        faults=heard.n_faults,
        notes=tuple(heard.notes),
    )


class _Heard:
    """Keeps what the events of a run said, and hands them on to ``watch``."""

    def __init__(self, watch: Callable[[Event], None] | None) -> None:
        self.history: list[Round] = []
        self.notes: list[str] = []
        self.n_faults = 0
        self._watch = watch

    def __call__(self, event: Event) -> None:
        if isinstance(event, Round):
            self.history.append(event)
        elif isinstance(event, Note):
            self.notes.append(event.message)
        elif isinstance(event, Fault):
            self.n_faults += 1
            warnings.warn(event.message, RuntimeWarning, stacklevel=2)
        if self._watch is not None:
            self._watch(event)


def with_reason(plan: Plan, reason: str, seconds: float) -> Plan:
    """Return the plan with the planner's reason and its estimate of the time."""
    return dataclasses.replace(plan, reason=reason, seconds=seconds)
