"""Local SGD: every shard takes steps of its own, then the ranks agree on one model; it is synchronous and exact.

A round is ``local_steps`` global steps: each shard starts from the shared model, goes through its own part of these
batches with an optimizer of its own, and proposes how far it went.  The mean of that, weighted as the rows are, moves
the shared model: as it is ("average"), or as a gradient with momentum ("nesterov", DiLoCo).  Shards, not workers, take
the steps, so the model has the same bits for any number of workers; rounds end where epochs do.

Source: Stich (2019), "Local SGD converges fast and communicates little"; Douillard et al. (2023), "DiLoCo".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError, PlanError
from tutti.forms import Compress
from tutti.protocols import Compressible, Learner, Trainable, Worker
from tutti.strategies import _rules
from tutti.strategies._compress import check_compress, plan_compressed
from tutti.strategies._rounds import OWN, Change, Rounds
from tutti.types import Array, Arrays, Kind, Order, Plan, Schema, Update

OUTER_LR, OUTER_MOMENTUM = 0.7, 0.9


@dataclass(frozen=True)
class LocalSGD(Spec):
    """Steps of each shard's own between merges: 1 / ``local_steps`` of the exchanges, for steps that differ by shard.

    Parameters
    ----------
    local_steps : global steps between two merges; fewer before the end of an epoch, which is one.
    outer : "average" takes the mean of the shards' models; "nesterov" goes along the mean of their changes with
        momentum, which wants an inner AdamW and many local steps (DiLoCo).
    outer_lr, outer_momentum : of "nesterov"; None: 0.7 and 0.9.
    compress : in what form the changes leave their shard, as in `AllReduce`.

    Example
    -------
    >>> LocalSGD(local_steps=16, outer="nesterov").get_params()
    {'local_steps': 16, 'outer': 'nesterov', 'outer_lr': None, 'outer_momentum': None, 'compress': None}
    """

    local_steps: int = 8
    outer: str = "average"
    outer_lr: float | None = None
    outer_momentum: float | None = None
    compress: Compress = None

    def __post_init__(self) -> None:
        check_compress(self.compress)
        if not isinstance(self.local_steps, int) or self.local_steps < 1:
            raise ParameterError("local_steps", self.local_steps, "write a whole number of at least 1")
        if self.outer not in ("average", "nesterov"):
            raise ParameterError("outer", self.outer, "write 'average' or 'nesterov'")
        for name in ("outer_lr", "outer_momentum"):
            value = getattr(self, name)
            if value is not None and self.outer == "average":
                raise ParameterError(name, value, "a mean has no such number; leave it out, or write outer='nesterov'")
        if self.outer_lr is not None and not 0 < self.outer_lr < math.inf:
            raise ParameterError("outer_lr", self.outer_lr, "write a number > 0, such as 0.7")
        if self.outer_momentum is not None and not 0 <= self.outer_momentum < 1:
            raise ParameterError("outer_momentum", self.outer_momentum, "write a number from 0 to below 1, such as 0.9")

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"delta", "summary"})

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to fit."""
        return {"strategy": type(self).__name__, **self.get_params()}

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with the rounds that are left; PlanError if the learner offers no deltas."""
        if "delta" not in learner.offers:
            fits = [f"tutti.{name}()" for kind, name in _FITS.items() if kind in learner.offers]
            raise PlanError(
                f"LocalSGD averages models that shards have moved by steps of their own, but {type(learner).__name__} "
                f"offers {', '.join(sorted(learner.offers)) or 'nothing'}; use strategy={' or '.join(fits)} with it, "
                "or what offers deltas: nets (in float32 or bf16), and linear models with solver='sgd'"
            )
        cost = learner.cost(schema)
        draft = plan_compressed(self.compress, learner, draft, type(self).__name__)
        passes = max(math.ceil(cost.passes), 1)
        rounds = passes * math.ceil(draft.rounds / passes / self.local_steps)
        return dataclasses.replace(
            draft,
            strategy=type(self).__name__,
            rounds=rounds,
            memory_bytes=draft.memory_bytes + draft.n_shards * cost.private_bytes,  # proposed beside committed
            notes=(
                *draft.notes,
                f"a merge every {self.local_steps} steps: {rounds} in place of {draft.rounds}, "
                f"{draft.sent_bytes_per_round / self.local_steps:,.0f} bytes a step",
            ),
        )

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Run rounds until the learner says that it is done; a `Trainable` says when to validate, tell and keep."""
        if self.compress and isinstance(learner, Compressible):
            learner = learner.whole()
            worker.compress(self.compress, learner)
        rounds = Rounds(worker, learner)
        rounds.remember()
        trainable = learner if isinstance(learner, Trainable) else None
        outs: dict[int, dict[str, Array]] = {}
        hints = {"local_steps": float(self.local_steps)}

        def order(kind: Kind) -> Callable[[int, int], Order]:
            given = outs if kind == "delta" else {}
            return lambda step, shard: Order(step, kind, worker.seed, shard, hints=hints, out=given.get(shard))

        while not learner.progress(rounds.shared).done:
            before = 0 if trainable is None else trainable.milestone(rounds.shared)[0]  # global steps
            merged = rounds.round(order("delta"), change=self._change(rounds.own))
            if not outs and merged.kind == "delta":
                outs = worker.buffers(merged.arrays)
            if trainable is None:
                rounds.tell(merged.kind)
                continue
            done = trainable.milestone(rounds.shared)[0]
            if trainable.due(rounds.shared):
                rounds.round(order("summary"))
            if trainable.tells(rounds.shared):
                rounds.tell("delta", done)
            rounds.keep(trainable, done - before)
        if trainable is None:
            return rounds.shared
        return {**trainable.result(rounds.shared), **{OWN + name: array for name, array in rounds.own.items()}}

    def _change(self, own: dict[str, Array]) -> Change | None:
        """Return what turns the mean of the shards' changes into the outer step; its momentum is in ``own``."""
        if self.outer == "average":
            return None
        lr = OUTER_LR if self.outer_lr is None else self.outer_lr
        momentum = OUTER_MOMENTUM if self.outer_momentum is None else self.outer_momentum

        def change(merged: Update) -> Update:
            arrays = merged.arrays
            if merged.kind != "delta" or not arrays["weight"][0] > 0:
                return merged
            mean, steps = arrays["delta"] / arrays["weight"], arrays["steps"] / arrays["weight"]
            velocity = own.setdefault("velocity", np.zeros_like(mean))
            moved = np.zeros_like(mean)
            _rules.sgd(moved, mean, velocity, lr, momentum, nesterov=True)
            return Update("delta", {**arrays, "delta": -moved, "steps": steps, "weight": np.ones_like(steps)})

        return change


_FITS = {"gradient": "AllReduce", "dual": "CoCoA"}
