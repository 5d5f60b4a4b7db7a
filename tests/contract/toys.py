"""The smallest learner that keeps the contract, the weighted mean of the rows, and a strategy that loses a rank.

Importable, so processes can run them.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.protocols import Learner, ShardData, Worker
from tutti.tasking import OnlyTasks, Room, Rows
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


@dataclass(frozen=True)
class Columns(OnlyTasks, Spec):
    """coef = column sums of cubes, from two stages: shards write column sums into a room, then tasks read all of it.

    Parameters
    ----------
    fatal : a folder; the first to perform a task in which a file of that number lies takes it away and is killed.
    fail_at : the task of the second stage that raises.
    """

    fatal: str = ""
    fail_at: int = -1

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"part"})

    def prepare(self, schema: Schema) -> None:
        pass

    def cost(self, schema: Schema) -> Cost:
        return Cost(update_bytes=8 * schema.n_features)

    def outline(self, schema: Schema) -> Mapping[str, Sequence[float]]:
        return {"sums": [1.0] * 8, "columns": [float(1 + j % 3) for j in range(5 * schema.n_features)]}

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        return {"stage": np.zeros(1), "width": np.array([schema.n_features]), "seed": np.array([seed % 97])}

    def tasks(self, shared: Arrays) -> Sequence[float]:
        n = [8, 5 * int(shared["width"][0]), 0][int(shared["stage"][0])]
        return [float(1 + j % 3) for j in range(n)]

    def rooms(self, shared: Arrays) -> Mapping[str, Room]:
        return {} if shared["stage"][0] else {"sums": Room((8, int(shared["width"][0])), "float64")}

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        if self.fatal:
            self._die(int(shared["stage"][0]), task)
        if shared["stage"][0] == 0:
            data = rows.shard(task)
            blocks = [data.block(i) for i in range(len(data.bounds))]
            rows.common("sums")[task] = sum(np.asarray(b.x, np.float64).sum(axis=0) ** 3 for b in blocks)
            return {"n": np.array([data.n_rows])}
        if task == self.fail_at:
            raise ArithmeticError(f"task {task} was told to fail")
        column = rows.common("sums")[:, task % rows.schema.n_features]
        return {"found": np.cumsum(column)[: 1 + task % 8] * (task + shared["seed"][0])}

    def _die(self, stage: int, task: int) -> None:
        try:
            os.unlink(os.path.join(self.fatal, f"{stage}-{task}"))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def assemble(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        if shared["stage"][0] == 0:
            return {**shared, "stage": np.ones(1), "n": np.array([sum(int(p["n"][0]) for p in parts)])}
        coef = np.concatenate([p["found"] for p in parts])
        return {**shared, "stage": np.array([2.0]), "coef": coef, "intercept": parts[0]["found"].copy()}

    def progress(self, shared: Arrays) -> Progress:
        done = bool(shared["stage"][0] == 2)
        return Progress(objective=0.0, gap=0.0, passes=float(shared["stage"][0]), done=done, converged=done)
