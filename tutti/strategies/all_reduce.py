"""Synchronous data parallelism: every round sums the updates of all shards and all ranks apply the same sum."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tutti._spec import Spec
from tutti.errors import PlanError
from tutti.protocols import Learner, Worker
from tutti.strategies._rounds import Rounds
from tutti.types import Arrays, Kind, Order, Plan, Schema


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
        """Run rounds until the learner says that it is done."""
        rounds = Rounds(worker, learner)
        while not learner.progress(rounds.shared).done:
            rounds.round(lambda step, shard: Order(step=step, kind="gradient", seed=worker.seed, shard=shard))
            rounds.tell("gradient")
        return rounds.shared
