"""A parameter server: workers pull the weights and push updates, each at its own pace, as far as staleness allows.

On one host the store is memory that all workers see: weights are read in place, a push applies under the lock of its
key range, and no process stands in between.  ``staleness=0`` is the synchronous program of `AllReduce`, with its bits.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from tutti._spec import Spec
from tutti.errors import ParameterError, PlanError
from tutti.protocols import Learner, Worker
from tutti.serving import Servable, Serving
from tutti.strategies._served import Service
from tutti.strategies.all_reduce import AllReduce, synchronous
from tutti.strategies.server_optimizers import ServerOptimizer, made
from tutti.types import Arrays, Kind, Plan, Schema


@dataclass(frozen=True)
class ParameterServer(Spec):
    """Workers pull weights and push updates as they go; none waits for a slower one, as long as it is not too stale.

    Parameters
    ----------
    servers : parts that the keys are cut into by size, each with its own lock and its own optimizer.
    staleness : steps that a worker may be ahead of the slowest one: 0 is synchronous, with the bits of `AllReduce`;
        math.inf ("inf" in a file) never waits (Downpour: Dean, Corrado et al. 2012).
    server_optimizer : what a push does to the weights, from `tutti.strategies.server_optimizers`, or a table such as
        {"type": "Adam", "lr": 0.01}; None: one step of the learner's own optimizer, at the part of its learning rate
        that its rows are of the global batch.
    claim : whoever is free takes the next part of a batch, where all rows are in memory on one host, so that every row
        counts once an epoch even if a worker is slow or lost.  False: every worker does its own part of each batch.

    Example
    -------
    >>> ParameterServer(staleness=4).get_params()
    {'servers': 1, 'staleness': 4, 'server_optimizer': None, 'claim': True}
    """

    servers: int = 1
    staleness: float | Literal["inf"] = 0
    server_optimizer: ServerOptimizer | dict[str, Any] | None = None
    claim: bool = True

    def __post_init__(self) -> None:
        if self.staleness == "inf":
            object.__setattr__(self, "staleness", math.inf)
        if isinstance(self.server_optimizer, dict):
            object.__setattr__(self, "server_optimizer", made(self.server_optimizer))
        if not isinstance(self.servers, int) or isinstance(self.servers, bool) or self.servers < 1:
            raise ParameterError("servers", self.servers, "write a whole number of at least 1")
        stale: Any = self.staleness
        whole = isinstance(stale, int | float) and not isinstance(stale, bool) and (stale == math.inf or stale % 1 == 0)
        if not whole or stale < 0:
            raise ParameterError("staleness", stale, "write 0 (synchronous), a whole number of steps, or math.inf")
        server = self.server_optimizer
        if server is not None and not isinstance(server, ServerOptimizer):
            raise ParameterError(
                "server_optimizer", server, "write None or one of tutti.strategies.server_optimizers, such as Adam()"
            )
        if server is not None and stale == 0:
            raise ParameterError(
                "server_optimizer", server, "with staleness=0 the learner's own optimizer steps; write staleness=1"
            )

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    @property
    def serves(self) -> bool:
        """True if the learner's weights are moved as updates come, without a common step."""
        return self.staleness != 0

    @property
    def repeats(self) -> bool:
        """True if the same training gives the same bits."""
        return self.staleness == 0

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with the strategy's name and what it does not promise.

        Raises
        ------
        PlanError : the learner has no gradients, or its state cannot be moved in parts as updates come.
        """
        if self.staleness == 0:
            synchronous_plan = AllReduce(self.claim).plan(schema, learner, draft)
            return dataclasses.replace(synchronous_plan, strategy=type(self).__name__)
        check(learner, self)
        note = (
            "updates are applied as they come, so the bits depend on the workers' timing and are not promised; "
            "staleness=0 gives those of AllReduce"
        )
        bound = "no worker waits for another" if self.staleness == math.inf else _bound(int(self.staleness))
        notes = (*draft.notes, note, bound)
        return dataclasses.replace(draft, strategy=type(self).__name__, notes=notes, tolerant=True, restarts=draft.size)

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Take items, compute pushes, apply them; `AllReduce`'s program where staleness is 0."""
        if self.staleness == 0:
            return synchronous(worker, learner, self.claim)
        return Service(
            worker, check(learner, self), self.servers, float(self.staleness), self.server_optimizer, self.claim
        ).run()


def check(learner: Learner, strategy: ParameterServer) -> Serving:
    """Return the learner, in the form in which a parameter server moves its state.

    Raises
    ------
    PlanError : it cannot.
    """
    instead = "; write strategy=tutti.ParameterServer(staleness=0) or tutti.AllReduce()"
    if isinstance(learner, Servable):
        return learner.served(whole=strategy.server_optimizer is not None)
    if not isinstance(learner, Serving):
        raise PlanError(
            f"ParameterServer(staleness={strategy.staleness}) moves weights as updates come, which "
            f"{type(learner).__name__} has no form of; neural nets (NeuralNetClassifier, NeuralNetRegressor, "
            f"tutti.train) and solver='sgd' have one{instead}"
        )
    why = learner.unservable()
    if why is not None:
        raise PlanError(f"ParameterServer(staleness={strategy.staleness}) cannot serve this net: {why}{instead}")
    return learner


def _bound(steps: int) -> str:
    return f"a worker waits when it is more than {steps} step{'s' * (steps != 1)} ahead of the slowest one"
