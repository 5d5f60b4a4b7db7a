"""A parameter server: workers pull the weights and push updates, each at its own pace, as far as staleness allows.

On one host the store is memory that all workers see: weights are read in place, a push applies under the lock of its
key range, and no process stands in between.  Over sockets, further ranks are servers, each with its part of the keys.
``staleness=0`` is the synchronous program of `AllReduce`, with its bits.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutti._spec import Spec
from tutti.errors import ParameterError, PlanError
from tutti.protocols import Learner, Worker
from tutti.serving import Detaching, Housed, Remote, Servable, Serving
from tutti.strategies import _record
from tutti.strategies._network import over_network
from tutti.strategies._served import Service
from tutti.strategies._talk import with_servers
from tutti.strategies.all_reduce import AllReduce, synchronous
from tutti.strategies.cocoa import CoCoA
from tutti.strategies.server_optimizers import Elastic, ServerOptimizer, made
from tutti.types import Arrays, Cost, Kind, Plan, Schema

_SOCKETS = ("tcp", "gloo", "nccl")


@dataclass(frozen=True)
class ParameterServer(Spec):
    """Workers pull weights and push updates as they go; none waits for a slower one, as long as it is not too stale.

    Parameters
    ----------
    servers : parts that the keys are cut into by size, each with its own lock and its own optimizer; over sockets
        (transport="tcp", Hosts) so many ranks besides the workers, for staleness > 0.  Dual updates have one lock.
    staleness : steps that a worker may be ahead of the slowest one: 0 is synchronous, with the bits of `AllReduce` (of
        `CoCoA`, where dual updates are pushed); math.inf ("inf" in a file) never waits (Downpour: Dean, Corrado et al.
        2012).
    server_optimizer : what a push does to the weights, from `tutti.strategies.server_optimizers`, or a table such as
        {"type": "Adam", "lr": 0.01}; None: one step of the learner's own optimizer, at the part of its learning rate
        that its rows are of the global batch.
    claim : whoever is free takes the next part of a batch, where all rows are in memory on one host, so that every row
        counts once an epoch even if a worker is slow or lost.  False: every worker does its own part of each batch.
    record : folder in which the order of all updates is written down, 16 bytes each, so that `Replay` repeats the run
        to the same bits; None: it is not.  What is read in place may change under the reader, which no order tells, so
        a worker that is recorded in shared memory copies the weights before it computes: a copy of the model a step.

    Example
    -------
    >>> ParameterServer(staleness=4).get_params()
    {'servers': 1, 'staleness': 4, 'server_optimizer': None, 'claim': True, 'record': None}
    """

    servers: int = 1
    staleness: float | Literal["inf"] = 0
    server_optimizer: ServerOptimizer | dict[str, Any] | None = None
    claim: bool = True
    record: str | None = None

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

        self._check_record()

    def _check_record(self) -> None:
        if self.record is None:
            return
        if not isinstance(self.record, str) or not self.record:
            raise ParameterError("record", self.record, "write None or the name of a folder")
        if self.staleness == 0:
            raise ParameterError("record", self.record, "with staleness=0 the same training gives the same bits anyway")
        if isinstance(self.server_optimizer, Elastic):
            raise ParameterError(
                "record", self.record, "with Elastic each worker steps weights of its own, of which no order is known"
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
            synchronous_plan = (CoCoA() if _dual(learner) else AllReduce(self.claim)).plan(schema, learner, draft)
            return dataclasses.replace(synchronous_plan, strategy=type(self).__name__)
        served = check(learner, self)
        note = (
            "updates are applied as they come, so the bits depend on the workers' timing and are not promised; "
            "staleness=0 gives those of AllReduce"
        )
        bound = "no worker waits for another" if self.staleness == math.inf else _bound(int(self.staleness))
        notes = (*draft.notes, note, bound)
        if self.servers > 1 and isinstance(served, Housed):
            notes = (
                *notes,
                "all keys have one lock, whatever servers says: how far a dual update goes follows from all",
            )
        if isinstance(served, Housed) and self.claim:
            draft = _all_adopted(draft, learner.cost(schema))
        if self.record is not None:
            _record.check_free(Path(self.record))
            notes = (*notes, f"the order of updates is recorded in {self.record}: tutti.Replay repeats the run from it")
        found = dataclasses.replace(
            draft, strategy=type(self).__name__, notes=notes, tolerant=True, restarts=draft.size
        )
        return found if draft.transport not in _SOCKETS else self._networked(found, served)

    def _networked(self, plan: Plan, learner: Serving) -> Plan:
        """Return the plan with the servers' seats."""
        if plan.transport != "tcp":
            raise PlanError(
                f"ParameterServer(staleness={self.staleness}) needs workers that see the same memory (transport='shm') "
                f"or reach servers over sockets (transport='tcp', tutti.Hosts); through {plan.transport!r} all ranks "
                "call together, for which there is staleness=0"
            )
        if self.record is not None and plan.engine == "Hosts":
            raise PlanError("record needs servers on this host, which writes it: write engine=tutti.Processes(n)")
        if not isinstance(learner, Remote):
            raise PlanError(
                f"ParameterServer(staleness={self.staleness}) moves a {type(learner).__name__} where workers see the "
                "same memory alone: write transport='shm', or staleness=0"
            )
        return with_servers(plan, self.servers)

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Take items, compute pushes, apply them; `AllReduce`'s program where staleness is 0."""
        if self.staleness == 0:
            return CoCoA().run(worker, learner) if _dual(learner) else synchronous(worker, learner, self.claim)
        checked, options = check(learner, self), (self.server_optimizer, self.claim)
        if worker.seat.role:
            return over_network(worker, checked, self.servers, float(self.staleness), *options, self.record)
        return Service(worker, checked, self.servers, float(self.staleness), *options, self.record).run()

    def seal(self, steps: int, sha256: str) -> None:
        """End the record, if there is one: so many steps were made, and this is the SHA-256 of the model."""
        if self.record is not None:
            _record.seal(Path(self.record), steps, sha256)


def check(learner: Learner, strategy: ParameterServer) -> Serving:
    """Return the learner, in the form in which a parameter server moves its state.

    Raises
    ------
    PlanError : it cannot.
    """
    instead = "; write strategy=tutti.ParameterServer(staleness=0) or tutti.AllReduce()"
    form = learner.served(whole=strategy.server_optimizer is not None) if isinstance(learner, Servable) else learner
    if not isinstance(form, Serving):
        raise PlanError(
            f"ParameterServer(staleness={strategy.staleness}) moves weights as updates come, which "
            f"{type(learner).__name__} has no form of; neural nets (NeuralNetClassifier, NeuralNetRegressor, "
            f"tutti.train), solver='sgd' and solver='dual' have one{instead}"
        )
    if strategy.record is not None and not isinstance(form, Detaching):
        raise PlanError(f"record={strategy.record!r}: the updates of a {type(learner).__name__} cannot be repeated")
    why = form.unservable()
    if why is not None:
        what = f"ParameterServer(staleness={strategy.staleness}) cannot serve this {type(learner).__name__}"
        raise PlanError(f"{what}: {why}{instead}")
    return form


def _dual(learner: Learner) -> bool:
    return "dual" in learner.offers and "gradient" not in learner.offers


def _all_adopted(draft: Plan, cost: Cost) -> Plan:
    """Return the draft with room for what every worker keeps of shards that it takes over, where rows are in memory."""
    shards = draft.n_shards * (cost.update_bytes + cost.private_bytes)
    if draft.memory_bytes <= shards:  # rows are read anew, by the worker alone whose they are
        return draft
    more = (draft.size - 1) * draft.n_shards * cost.private_bytes
    return dataclasses.replace(draft, memory_bytes=draft.memory_bytes + more)


def _bound(steps: int) -> str:
    return f"a worker waits when it is more than {steps} step{'s' * (steps != 1)} ahead of the slowest one"
