"""The one synchronous loop: propose, agree, then commit.

A round asks every shard for a proposal (nothing changes), merges the updates over all shards, applies the sum to the
shared state and only then lets private state move.  An error before the commit costs the round, never the state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tutti.protocols import Divisible, Grouping, Learner, Worker
from tutti.types import Arrays, Kind, Order, Proposal, Round, Update

Scale = Callable[[Arrays, Update], float]
Orders = Callable[[int, int], Order]


class Rounds:
    """The state of one rank between rounds: the shared arrays and the private state of the shards it hosts."""

    def __init__(self, worker: Worker, learner: Learner) -> None:
        self.worker, self.learner = worker, learner
        self.began = time.perf_counter()
        self.n_rounds = 0
        self._grouping = learner if isinstance(learner, Grouping) else None
        self._divisible: Divisible | None = None
        with worker.phase("read"):
            self.shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
            self.private: dict[int, Any] = {s: learner.adopt(worker.schema, data) for s, data in worker.shards.items()}

    def divide(self) -> None:
        """From now on every rank takes its part of each `step`, on state that all see, where the learner can."""
        worker = self.worker
        if isinstance(self.learner, Divisible) and worker.shares_memory:
            self.shared = self.learner.settle(self.shared, worker.memory, worker.seat.rank, worker.size)
            self._divisible = self.learner

    def round(self, order: Orders, scale: Scale | None = None) -> Update:
        """Run one round; ``order(step, shard)`` says what each shard does, ``scale(shared, merged)`` how far to go."""
        proposals = self._propose(order)
        merged = self.worker.merge({s: p.update for s, p in proposals.items()})
        with self.worker.phase("compute"):
            eta = 1.0 if scale is None else scale(self.shared, merged)
            self.shared = self.learner.apply(self.shared, merged, eta)
        self._commit(proposals, eta)
        return merged

    def step(self, order: Orders) -> Arrays:
        """Run one round whose merged update nobody asks for; returns arrays like those of an update."""
        if self._divisible is None:
            return self.round(order).arrays
        proposals = self._propose(order)
        shares = self.worker.share({s: p.update for s, p in proposals.items()})
        with self.worker.phase("compute"):
            self.shared = self._divisible.apply_part(self.shared, shares)
        self.worker.meet()
        self._commit(proposals, 1.0)
        return next(iter(proposals.values())).update.arrays

    def _propose(self, order: Orders) -> dict[int, Proposal]:
        worker, learner = self.worker, self.learner
        with worker.phase("compute"):
            orders = {s: order(self.n_rounds, s) for s in worker.shards}
            if self._grouping is not None:
                return self._grouping.propose_all(self.shared, self.private, worker.shards, orders)
            return {
                s: learner.propose(self.shared, self.private[s], data, orders[s]) for s, data in worker.shards.items()
            }

    def _commit(self, proposals: dict[int, Proposal], eta: float) -> None:
        with self.worker.phase("compute"):
            for s, proposal in proposals.items():
                self.private[s] = self.learner.commit(self.private[s], proposal, eta)
        self.n_rounds += 1
        self.worker.at_step(self.n_rounds)

    def tell(self, kind: Kind) -> None:
        """Emit the `Round` event of the state reached (rank 0 speaks for all: the state is the same everywhere)."""
        if self.worker.seat.rank == 0:
            p = self.learner.progress(self.shared)
            seconds = time.perf_counter() - self.began
            self.worker.emit(Round(self.n_rounds, seconds, p.objective, p.gap, p.passes, kind, p.metrics))
