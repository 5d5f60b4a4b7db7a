"""The one synchronous loop: propose, agree, then commit.

A round asks every shard for a proposal (nothing changes), merges the updates over all shards, applies the sum to the
shared state and only then lets private state move.  An error before the commit costs the round, never the state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tutti.protocols import Claims, Divisible, Grouping, Learner, Remembering, Trainable, Worker
from tutti.types import Array, Arrays, Kind, Order, Proposal, Round, Update

Scale = Callable[[Arrays, Update], float]
Change = Callable[[Update], Update]
Orders = Callable[[int, int], Order]
OWN = "strategy/"
LEARNER = "learner/"
"""Arrays of the strategy itself are stored under "strategy/NAME", a shard's of the learner under "learner/NAME"."""


class Rounds:
    """The state of one rank between rounds: the shared arrays and the private state of the shards it hosts."""

    def __init__(self, worker: Worker, learner: Learner) -> None:
        self.worker, self.learner = worker, learner
        self.began = time.perf_counter()
        self.n_rounds = 0
        self._grouping = learner if isinstance(learner, Grouping) else None
        self._divisible: Divisible | None = None
        self._claims: Claims | None = None
        self._remembers = self._overdue = False
        start, self.own = _split(worker.start)
        with worker.phase("read"):
            self.shared = learner.init(worker.schema, seed=worker.seed, start=start)
            self.private: dict[int, Any] = {s: learner.adopt(worker.schema, data) for s, data in worker.shards.items()}

    def remember(self) -> None:
        """From now on checkpoints hold what is private to shards: the learner's, and what is in `Worker.private`.

        Whether one is overdue is known to the rank that writes them, so every merge carries a flag of one number.
        """
        self._remembers, learner, worker = True, self.learner, self.worker
        if isinstance(learner, Remembering):
            for s, arrays in worker.private.items():
                names = [name for name in arrays if name.startswith(LEARNER)]
                mine = {name.removeprefix(LEARNER): arrays.pop(name) for name in names}
                if mine:
                    self.private[s] = learner.with_arrays(self.private[s], mine)

    def divide(self, claim: bool) -> None:
        """From now on every rank takes its part of each `step`, on state that all see, where the learner can.

        Parameters
        ----------
        claim : shards whose private state follows from the seed are claimed at run time, not dealt.
        """
        worker = self.worker
        if isinstance(self.learner, Divisible) and worker.shares_memory:
            self.shared = self.learner.settle(self.shared, worker.memory, worker.seat.rank, worker.size)
            self._divisible = self.learner
            self._claims = worker.claim() if claim and isinstance(self.learner, Trainable) else None

    def round(self, order: Orders, scale: Scale | None = None, change: Change | None = None) -> Update:
        """Run one round; ``order(step, shard)`` says what each shard does, ``scale(shared, merged)`` how far to go.

        ``change`` makes of the merged update the one that is applied.
        """
        proposals = self._propose(order)
        merged = self._merge(proposals)
        self._take(proposals, merged if change is None else change(merged), scale)
        return merged

    def step(self, order: Orders) -> Arrays | None:
        """Run one round whose merged update nobody asks for; returns arrays like those of an update.

        Which shards this rank works on is decided while it runs, where the worker can claim them.
        """
        if self._divisible is None:
            return self._far(order)
        worker, proposals = self.worker, {}
        if self._claims is None:
            proposals = self._propose(order)
        else:
            for mine in self._claims.step(self._grouping is not None and self._grouping.groups(self.shared)):
                proposals |= self._propose(order, mine)
        shares = worker.share({s: p.update for s, p in proposals.items()})
        with worker.phase("compute"):
            self.shared = self._divisible.apply_part(self.shared, shares)
        if self._claims is not None:
            self._claims.publish()
        worker.meet()
        self._commit(proposals, 1.0)
        return next((p.update.arrays for p in proposals.values()), None)

    def _far(self, order: Orders) -> Arrays:
        """Run one round of ranks that see no common memory."""
        proposals = self._propose(order)
        merged = self._merge(proposals)  # the first collective call: it may have begun while the ranks proposed
        if isinstance(self.learner, Divisible):
            payload = self.learner.outbox(self.shared, list(proposals))
            if payload:
                self.learner.inbox(self.shared, self.worker.all_gather(payload))
        return self._take(proposals, merged, None).arrays

    def _merge(self, proposals: dict[int, Proposal]) -> Update:
        updates = {s: p.update for s, p in proposals.items()}
        if not self._remembers:
            return self.worker.merge(updates)
        flag = float(self.worker.overdue())
        merged = self.worker.merge({s: _flagged(update, flag) for s, update in updates.items()})
        self._overdue |= bool(merged.arrays["overdue"][0] > 0)
        return merged

    def _take(self, proposals: dict[int, Proposal], merged: Update, scale: Scale | None) -> Update:
        with self.worker.phase("compute"):
            eta = 1.0 if scale is None else scale(self.shared, merged)
            self.shared = self.learner.apply(self.shared, merged, eta)
        self._commit(proposals, eta)
        return merged

    def _propose(self, order: Orders, chosen: Sequence[int] | None = None) -> dict[int, Proposal]:
        worker, learner = self.worker, self.learner
        data = {s: worker.open(s) for s in chosen} if chosen is not None else worker.shards
        with worker.phase("compute"):
            for s in data.keys() - self.private.keys():
                self.private[s] = learner.adopt(worker.schema, data[s])
            orders = {s: order(self.n_rounds, s) for s in data}
            if self._grouping is not None:
                return self._grouping.propose_all(self.shared, self.private, data, orders)
            return {s: learner.propose(self.shared, self.private[s], data[s], orders[s]) for s in data}

    def _commit(self, proposals: dict[int, Proposal], eta: float) -> None:
        with self.worker.phase("compute"):
            for s, proposal in proposals.items():
                self.private[s] = self.learner.commit(self.private[s], proposal, eta)
        self.n_rounds += 1
        self.worker.at_step(self.n_rounds)

    def keep(self, learner: Trainable, steps: int = 1) -> None:
        """Offer the state for a checkpoint, ``steps`` steps after it was offered last."""
        worker, (step, best) = self.worker, learner.milestone(self.shared)
        if not self._remembers:
            worker.keep(step, lambda: self._state(learner), best)
        elif best or self._overdue or worker.due(step, steps):
            found: dict[int, Arrays] = {}
            if isinstance(learner, Remembering):
                found = {s: learner.private_arrays(private) for s, private in self.private.items()}
            named = {s: {LEARNER + name: array for name, array in mine.items()} for s, mine in found.items()}
            worker.keep_all(step, lambda: self._state(learner), best, named)
            self._overdue = False

    def _state(self, learner: Trainable) -> Arrays:
        return {**learner.snapshot(self.shared), **{OWN + name: array for name, array in self.own.items()}}

    def tell(self, kind: Kind, step: int | None = None) -> None:
        """Emit the `Round` event of the state reached (rank 0 speaks for all: the state is the same everywhere).

        Parameters
        ----------
        step : its number; None: that of the round.
        """
        if self.worker.seat.rank == 0:
            p = self.learner.progress(self.shared)
            seconds = time.perf_counter() - self.began
            self.worker.emit(Round(step or self.n_rounds, seconds, p.objective, p.gap, p.passes, kind, p.metrics))


def _split(start: Arrays | None) -> tuple[Arrays | None, dict[str, Array]]:
    """Return (the learner's arrays, the strategy's own) of what a run starts from."""
    if start is None:
        return None, {}
    own = {name.removeprefix(OWN): np.array(array) for name, array in start.items() if name.startswith(OWN)}
    return {name: array for name, array in start.items() if not name.startswith(OWN)}, own


def _flagged(update: Update, flag: float) -> Update:
    like = next(iter(update.arrays.values()))
    return Update(update.kind, {**update.arrays, "overdue": np.full(1, flag, like.dtype)}, update.lossy)
