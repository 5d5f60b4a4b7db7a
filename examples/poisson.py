"""A learner of one's own: Poisson regression by Newton's method, in one class without a word about workers.

P(w) = 1/2 |w|^2 + sum_i exp(x_i.w) - y_i x_i.w.  Each shard sums loss, gradient and Hessian over its rows; the strategy
adds the sums of all shards in a fixed tree; `apply` takes the Newton step.  Any strategy that merges gradients and any
engine can run it, and the model has the same bits on each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.types import Arrays, Cost, Kind, Order, Progress, Proposal, Schema, Update


@dataclass(frozen=True)
class PoissonRegression(Spec):
    """A `tutti.protocols.Learner`; it stops when Newton's decrement is at most ``tol`` times the objective."""

    tol: float = 1e-10
    max_iter: int = 50

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def prepare(self, schema: Schema) -> None:
        """Nothing has to be compiled."""

    def cost(self, schema: Schema) -> Cost:
        d = schema.n_features
        return Cost(update_bytes=8 * (d * d + d + 1), passes=8, rounds=8, flops_per_value=2 * d)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        return {"coef": np.zeros(schema.n_features), "status": np.array([math.nan, math.inf, 0.0])}

    def adopt(self, schema: Schema, data: Any) -> None:
        """Shards have no private state here."""

    def propose(self, shared: Arrays, private: None, data: Any, order: Order) -> Proposal:
        w = shared["coef"]
        loss, gradient, hessian = np.zeros(1), np.zeros_like(w), np.zeros((len(w), len(w)))
        for i in range(len(data.bounds)):
            block = data.block(i)
            margin = block.x @ w
            rate = np.exp(margin)
            loss += rate.sum() - block.y @ margin
            gradient += block.x.T @ (rate - block.y)
            hessian += block.x.T @ (block.x * rate[:, None])
        return Proposal(Update("gradient", {"loss": loss, "gradient": gradient, "hessian": hessian}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        w = shared["coef"]
        objective = float(merged.arrays["loss"][0]) + 0.5 * float(w @ w)
        gradient = merged.arrays["gradient"] + w
        step = np.linalg.solve(merged.arrays["hessian"] + np.eye(len(w)), gradient)
        decrement = 0.5 * float(gradient @ step)
        rounds = shared["status"][2] + 1
        return {"coef": w - scale * step, "status": np.array([objective, decrement, rounds])}

    def commit(self, private: None, proposal: Proposal, scale: float) -> None:
        """Nothing is private."""

    def progress(self, shared: Arrays) -> Progress:
        objective, decrement, rounds = shared["status"].tolist()
        near = decrement <= self.tol * abs(objective)
        # the decrement estimates objective - optimum and certifies nothing, so the gap stays unknown
        return Progress(objective, math.inf, rounds, near or rounds >= self.max_iter, False, estimate=decrement)
