"""CoCoA+: every shard improves its own dual variables against a local copy of the model; the changes are added.

The shards' changes disagree where they share features.  A shard expects more curvature than its own there, ``sigma``
times its guess; an exact line search on the dual keeps the sum from overshooting, and its outcome steers sigma.  All
decisions follow from merged numbers: they are the same on every rank and for any number of workers.

Source: Ma, Smith, Jaggi, Jordan, Richtarik, Takac (2015), "Adding vs. averaging in distributed primal-dual
optimization".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from tutti._merging import adapt, merges_per_epoch
from tutti._spec import Spec
from tutti.errors import ParameterError, PlanError
from tutti.protocols import Learner, Worker
from tutti.strategies._rounds import Rounds
from tutti.types import Array, Arrays, Kind, Order, Plan, Schema, Update


class DualLearner(Learner, Protocol):
    """What CoCoA asks of a learner that offers "dual" updates besides the usual.

    ``line_search(shared, merged)`` returns how far to go along a merged change, one number in [0, 1] per output, for
    `apply` and `commit`; ``due(shared)`` tells at the end of an epoch whether a "summary" should judge the model;
    ``merge_share(shared)`` is the part of a full epoch's work that the merges of the next one may cost.
    """

    def merge_share(self, shared: Arrays) -> float: ...
    def line_search(self, shared: Arrays, merged: Update) -> Any: ...
    def due(self, shared: Arrays) -> bool: ...


@dataclass(frozen=True)
class CoCoA(Spec):
    """Dual local solvers, merged by adding with a line search.

    Parameters
    ----------
    merges : merges per epoch; None: by the shape of the data, see `merges_per_epoch`.
    sigma : multiple of the curvature that a shard expects from all shards (its own guess, feature by feature): larger
        is safer and slower; None: starts at 1 and follows the outcome of the line search.

    Example
    -------
    >>> CoCoA(merges=4).get_params()
    {'merges': 4, 'sigma': None}
    """

    merges: int | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.merges is not None and self.merges < 1:
            raise ParameterError("merges", self.merges, "write at least 1 merge per epoch, or None")
        if self.sigma is not None and not self.sigma > 0:
            raise ParameterError("sigma", self.sigma, "write a number > 0, or None to have it adapted")

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"dual", "summary"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with rounds and bytes filled in; PlanError if the learner offers no dual updates."""
        if "dual" not in learner.offers:
            raise PlanError(
                f"CoCoA adds changes of dual variables, but {type(learner).__name__} offers "
                f"{', '.join(sorted(learner.offers)) or 'nothing'}; use strategy=tutti.AllReduce() with it, or "
                "solver='dual' in a model that has one (LinearSVC, LogisticRegression of two classes, Ridge)"
            )
        shared = learner.init(schema, seed=0)
        merges = self._merges(schema, cast(DualLearner, learner), shared, draft.n_shards)
        return dataclasses.replace(
            draft,
            strategy=type(self).__name__,
            rounds=draft.rounds or 5 * merges,
            sent_bytes_per_round=int(shared["w"].nbytes) if draft.size > 1 else 0,
            notes=(*draft.notes, f"{merges} merges an epoch"),
        )

    def _merges(self, schema: Schema, learner: DualLearner, shared: Arrays, n_shards: int) -> int:
        if self.merges is not None:
            return self.merges
        return merges_per_epoch(schema, shared["w"].shape[1], n_shards, learner.merge_share(shared))

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Run epochs of local ascent and merges until a certificate passes or the learner has had enough."""
        dual = cast(DualLearner, learner)
        rounds = Rounds(worker, learner)
        merges = most = self._merges(worker.schema, dual, rounds.shared, worker.n_shards)
        sigma = self.sigma or 1.0
        buffers: dict[Kind, dict[int, dict[str, Array]]] = {}
        epoch = 0

        def order(kind: Kind, part: int = 0) -> Any:
            hints = {"sigma": sigma, "n_shards": float(worker.n_shards), "merges": float(most)}
            outs = buffers.get(kind, {})
            return lambda step, shard: Order(
                step, kind, worker.seed, shard, (part, merges), epoch, hints, outs.get(shard)
            )

        while not learner.progress(rounds.shared).done:
            steps = 0.0
            for part in range(merges):
                found = [np.ones(1)]

                def search(shared: Arrays, merged: Update, found: list[Any] = found) -> Any:
                    found[0] = dual.line_search(shared, merged)
                    return found[0]

                merged = rounds.round(order("dual", part), search)
                if "dual" not in buffers:
                    buffers["dual"] = worker.buffers(merged.arrays)
                steps += float(found[0].min())
            if self.sigma is None:
                sigma = adapt(sigma, steps / merges, worker.n_shards)
            epoch += 1
            rounds.tell("dual")
            if dual.due(rounds.shared):
                rounds.round(order("summary"))
                rounds.tell("summary")
            merges = self._merges(worker.schema, dual, rounds.shared, worker.n_shards)
        return rounds.shared
