"""Synchronous data parallelism: every round sums the updates of all shards and all ranks apply the same sum."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tutti._spec import Spec
from tutti.errors import PlanError
from tutti.protocols import Learner, Worker
from tutti.strategies._rounds import Rounds
from tutti.types import Array, Arrays, Kind, Order, Plan, Schema


@dataclass(frozen=True)
class AllReduce(Spec):
    """Sum the gradients of all shards in every round; the learner's own state machine does the rest.

    The sum is taken in a fixed tree over the shard ids, so the model has the same bits for any number of workers.

    Example
    -------
    >>> AllReduce().get_params()
    {}
    """

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with the strategy's name; PlanError if the learner offers no gradients."""
        if "gradient" not in learner.offers:
            raise PlanError(
                f"AllReduce sums gradients, but {type(learner).__name__} offers {', '.join(sorted(learner.offers))}; "
                "use strategy=tutti.CoCoA() with it, or a solver that offers gradients (solver='newton' or 'lbfgs')"
            )
        return dataclasses.replace(draft, strategy=type(self).__name__)

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Run rounds until the learner says that it is done, with a validation wherever it is due."""
        rounds = Rounds(worker, learner)
        due, tells = (getattr(learner, name, None) for name in ("due", "tells"))
        outs: dict[int, dict[str, Array]] = {}

        def order(step: int, shard: int) -> Order:
            return Order(step=step, kind="gradient", seed=worker.seed, shard=shard, out=outs.get(shard))

        while not learner.progress(rounds.shared).done:
            merged = rounds.round(order)
            if not outs:
                outs = worker.buffers(merged.arrays)
            if due is not None and due(rounds.shared):
                rounds.round(lambda step, shard: Order(step=step, kind="summary", seed=worker.seed, shard=shard))
            if tells is None or tells(rounds.shared):
                rounds.tell("gradient")
        return rounds.shared
