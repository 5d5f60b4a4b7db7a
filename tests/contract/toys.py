"""The smallest learner that keeps the contract, the weighted mean of the rows, and a strategy that loses a rank.

Importable, so processes can run them.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.protocols import Learner, ShardData, Worker
from tutti.types import Arrays, Cost, Kind, Order, Plan, Progress, Proposal, Schema, Update


@dataclass(frozen=True)
class Mean(Spec):
    """coef = sum of rows / number of rows, in one round; ``fail_at`` raises in that shard."""

    rounds: int = 1
    fail_at: int = -1

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def prepare(self, schema: Schema) -> None:
        pass

    def cost(self, schema: Schema) -> Cost:
        return Cost(update_bytes=8 * (schema.n_features + 1), rounds=self.rounds)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        return {"coef": np.zeros(schema.n_features), "intercept": np.zeros(1), "round": np.zeros(1)}

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        if order.shard == self.fail_at:
            raise ArithmeticError(f"shard {order.shard} was told to fail")
        total, n = np.zeros_like(shared["coef"]), 0
        for i in range(len(data.bounds)):
            block = data.block(i)
            total += np.asarray(block.x, np.float64).sum(axis=0)
            n += len(block.y)
        return Proposal(Update(order.kind, {"sum": total, "n": np.array([float(n)])}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        mean = merged.arrays["sum"] / max(merged.arrays["n"][0], 1.0)
        return {"coef": mean, "intercept": np.zeros(1), "round": shared["round"] + 1}

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        done = bool(shared["round"][0] >= self.rounds)
        return Progress(objective=0.0, gap=0.0, passes=float(shared["round"][0]), done=done, converged=done)


@dataclass(frozen=True)
class Dying(Spec):
    """A tolerant strategy in which one rank is killed; every other one waits for that and returns the first state."""

    rank: int = 0

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        return dataclasses.replace(draft, strategy="Dying", tolerant=True)

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        if worker.seat.rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        while self.rank not in worker.lost:
            worker.at_step(0)
        return learner.init(worker.schema, seed=worker.seed, start=worker.start)
