"""A learner with private state that does not follow from seed and step, and a strategy that has it remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.contract.toys import Mean
from tutti._spec import Spec
from tutti.protocols import Learner, ShardData, Worker
from tutti.strategies._rounds import Rounds
from tutti.types import Arrays, Order, Plan, Proposal, Schema, Update


@dataclass(frozen=True)
class Walk(Mean):
    """Each shard's position moves towards the shared one, which is the sum of all positions."""

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        fresh = {"coef": np.ones(3), "intercept": np.zeros(1), "round": np.zeros(1)}
        return fresh if start is None else {name: np.array(start[name]) for name in fresh}

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return np.full(3, float(data.id))

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        moved = private + 0.1 * np.sin(shared["coef"] + order.shard)
        return Proposal(Update("gradient", {"sum": moved}), moved)

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        return {**shared, "coef": np.array(merged.arrays["sum"]), "round": shared["round"] + 1}

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return proposal.private

    def private_arrays(self, private: Any) -> Arrays:
        return {"at": private, "count/0": np.float32(private[0]).reshape(())}

    def with_arrays(self, private: Any, arrays: Arrays) -> Any:
        assert arrays["count/0"].shape == ()
        return np.array(arrays["at"])

    def due(self, shared: Arrays) -> bool:
        return False

    def tells(self, shared: Arrays) -> bool:
        return True

    def milestone(self, shared: Arrays) -> tuple[int, bool]:
        return int(shared["round"][0]), False

    def snapshot(self, shared: Arrays) -> Arrays:
        return shared

    def result(self, shared: Arrays) -> Arrays:
        return shared


@dataclass(frozen=True)
class Remembered(Spec):
    """Rounds whose checkpoints hold what is private to shards, among it arrays of the strategy's own."""

    wants = frozenset({"gradient"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        return draft

    def run(self, worker: Worker, learner: Any) -> Arrays:
        rounds = Rounds(worker, learner)
        rounds.remember()
        total = rounds.own.setdefault("total", np.zeros(3))
        while not learner.progress(rounds.shared).done:
            for s in worker.shards:
                left = worker.private[s].setdefault("left", np.zeros(3))
                left += (1 + s) * rounds.shared["coef"]
            total += rounds.round(lambda step, shard: Order(step, "gradient", worker.seed, shard)).arrays["sum"]
            rounds.keep(learner)
        left = worker.merge({s: Update("gradient", {"left": a["left"]}) for s, a in worker.private.items()})
        return {**rounds.shared, "total": total, "left": left.arrays["left"]}
