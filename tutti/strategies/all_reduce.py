"""Synchronous data parallelism: every round sums the updates of all shards and all ranks apply the same sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from tutti._spec import Spec
from tutti.counting import Counting
from tutti.errors import PlanError
from tutti.forms import Compress
from tutti.protocols import Learner, Trainable, Worker
from tutti.strategies._compress import check_compress, plan_compressed
from tutti.strategies._counted import counted, lost_notes, plan_counted, withstands
from tutti.strategies._rounds import Rounds
from tutti.strategies._spread import run_spread
from tutti.tasking import Spreading
from tutti.types import Array, Arrays, Kind, Order, Plan, Ready, Schema


@dataclass(frozen=True)
class AllReduce(Spec):
    """Sum the gradients of all shards in every round; the learner's own state machine does the rest.

    The sum is taken in a fixed tree over the shard ids, so the model has the same bits for any number of workers.

    Parameters
    ----------
    claim : neural nets only: a worker that has finished takes over shards that a slower one has not begun, where all
        rows are in memory on one host; the bits stay the same.  False: every worker does the shards it was dealt.
    compress : in what form the gradients of nets and of ``solver="sgd"`` leave their shard: one of `tutti.Half`,
        `tutti.Int8`, `tutti.TopK`, `tutti.PowerSGD`, or a tuple such as ``(TopK(0.01), Int8())``; what is left out is
        added to the shard's next gradient.  "auto": measure the link first, and leave it where it does not pay.

    Example
    -------
    >>> AllReduce(claim=False).get_params()
    {'claim': False, 'compress': None}
    """

    claim: bool = True
    compress: Compress = None

    def __post_init__(self) -> None:
        check_compress(self.compress)

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"gradient", "counts"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with the strategy's name; PlanError if the learner offers neither gradients nor counts."""
        if "counts" in learner.offers:
            return plan_counted(self.compress, learner, schema, draft, type(self).__name__)
        if isinstance(learner, Spreading):
            return self._plan_spread(learner, draft)
        if "gradient" not in learner.offers:
            raise PlanError(
                f"AllReduce sums gradients, but {type(learner).__name__} offers {', '.join(sorted(learner.offers))}; "
                "use strategy=tutti.CoCoA() with it, or a solver that offers gradients (solver='newton' or 'lbfgs')"
            )
        planned = plan_compressed(self.compress, learner, draft, type(self).__name__)
        return dataclasses.replace(planned, strategy=type(self).__name__)

    def _plan_spread(self, learner: Spreading, draft: Plan) -> Plan:
        reason = learner.unspreadable()
        if reason is not None or self.compress is not None:
            what = reason or "compress= is for gradients, and this learner sends whole numbers"
            raise PlanError(f"{what}; use strategy=tutti.TaskParallel()")
        note = "rows stay with their workers: sums of histograms travel, and the rows of small nodes, once"
        return dataclasses.replace(
            draft,
            strategy=type(self).__name__,
            notes=(*draft.notes, note, *lost_notes(draft)),
            tolerant=withstands(draft),
        )

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Run rounds until the learner says that it is done."""
        if "counts" in learner.offers:
            assert isinstance(learner, Counting)  # the plan has seen to it
            return counted(worker, learner)
        if isinstance(learner, Spreading):
            return run_spread(worker, learner)
        return synchronous(worker, learner, self.claim, self.compress)


def synchronous(worker: Worker, learner: Learner, claim: bool, compress: Compress = ()) -> Arrays:
    """Run rounds until the learner says that it is done; a `Trainable` says when to validate, tell and keep."""
    whole = worker.compress(compress, learner) if compress else None
    learner = learner if whole is None else whole
    rounds = Rounds(worker, learner)
    if whole is not None:
        rounds.remember()  # what the shards have not sent yet
    trainable = learner if isinstance(learner, Trainable) else None
    outs: dict[int, dict[str, Array]] = {}
    ready: Ready | None = None
    rounds.divide(claim)

    def order(kind: Kind) -> Callable[[int, int], Order]:
        given, tell = (outs, ready) if kind == "gradient" else ({}, None)
        return lambda step, shard: Order(
            step=step, kind=kind, seed=worker.seed, shard=shard, out=given.get(shard), ready=tell
        )

    while not learner.progress(rounds.shared).done:
        like = rounds.step(order("gradient"))
        if trainable is None:
            rounds.tell("gradient")
            continue
        if not outs and like is not None:
            outs, ready = worker.buffers(like), worker.early(like)
        if trainable.due(rounds.shared):
            rounds.round(order("summary"))
        if trainable.tells(rounds.shared):
            rounds.tell("gradient")
        rounds.keep(trainable)
    return rounds.shared if trainable is None else trainable.result(rounds.shared)
