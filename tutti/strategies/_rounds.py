"""The one synchronous loop: propose, agree, then commit.

A round asks every shard for a proposal (nothing changes), merges the updates over all shards, applies the sum to the
shared state and only then lets private state move.  An error before the commit costs the round, never the state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tutti.protocols import Grouping, Learner, Worker
from tutti.types import Arrays, Kind, Order, Proposal, Round, Update

Scale = Callable[[Arrays, Update], float]


class Rounds:
    """The state of one rank between rounds: the shared arrays and the private state of the shards it hosts."""

    def __init__(self, worker: Worker, learner: Learner) -> None:
        self.worker, self.learner = worker, learner
        self.began = time.perf_counter()
        self.step = 0
        self._grouping = learner if isinstance(learner, Grouping) else None
        with worker.phase("read"):
            self.shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
            self.private: dict[int, Any] = {s: learner.adopt(worker.schema, data) for s, data in worker.shards.items()}

    def round(self, order: Callable[[int, int], Order], scale: Scale | None = None) -> Update:
        """Run one round; ``order(step, shard)`` says what each shard does, ``scale(shared, merged)`` how far to go."""
        worker, learner = self.worker, self.learner
        proposals: dict[int, Proposal] = {}
        with worker.phase("compute"):
            orders = {s: order(self.step, s) for s in worker.shards}
            if self._grouping is not None:
                proposals = self._grouping.propose_all(self.shared, self.private, worker.shards, orders)
            else:
                for s, data in worker.shards.items():
                    proposals[s] = learner.propose(self.shared, self.private[s], data, orders[s])
        merged = worker.merge({s: p.update for s, p in proposals.items()})
        with worker.phase("compute"):
            eta = 1.0 if scale is None else scale(self.shared, merged)
            self.shared = learner.apply(self.shared, merged, eta)
            for s, proposal in proposals.items():
                self.private[s] = learner.commit(self.private[s], proposal, eta)
        self.step += 1
        worker.at_step(self.step)
        return merged

    def tell(self, kind: Kind) -> None:
        """Emit the `Round` event of the state reached (rank 0 speaks for all: the state is the same everywhere)."""
        if self.worker.seat.rank == 0:
            p = self.learner.progress(self.shared)
            seconds = time.perf_counter() - self.began
            self.worker.emit(Round(self.step, seconds, p.objective, p.gap, p.passes, kind, p.metrics))
