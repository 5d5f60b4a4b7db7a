"""A recorded run, repeated by one rank: every item on the weights that it had read, applied in the recorded order."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np

from tutti.errors import InputError
from tutti.protocols import Worker
from tutti.serving import Detaching, Touching
from tutti.strategies import _record
from tutti.strategies._order import RESTORED, TORN, Item, Read, broken, schedule
from tutti.strategies._record import Record
from tutti.strategies._served import Service
from tutti.strategies.server_optimizers import made
from tutti.types import Array, Arrays, Push

GRADIENT = "gradient/"
"""What the last update moved along, by the names of the parameters, comes back under names that begin so."""


class Replayed(Service):
    """See the module.

    Parameters
    ----------
    worker, learner : who works on what.
    record : of the run.   to : the step whose updates are the last ones; None: all.
    """

    def __init__(self, worker: Worker, learner: Detaching, record: Record, to: int | None) -> None:
        self._record_of, self._to = record, to
        self._blocks: list[Array] = []
        self._kept: dict[tuple[int, int], list[Array]] = {}
        table = record.facts["server_optimizer"]
        super().__init__(worker, learner, 1, math.inf, None if table is None else made(table), claim=False)
        self._detaching, self._copies = learner, learner.detach(self.shared)
        self._first, _ = learner.milestone(self.shared)
        digests = [np.frombuffer(_record.rows_sha256(worker.open(s)), np.uint8) for s in range(worker.n_shards)]
        known = _record.known(worker, learner, self._copies, np.array(digests), self._first, self.desk.limit)
        _record.check_same(record, known)
        self._base = [0] * record.n_ranges
        self._seen: dict[Item, dict[int, list[Array]]] = defaultdict(dict)
        self._pushes: dict[Item, Push] = {}
        self._latest: Push | None = None

    def _sums_memory(self, n_bytes: int) -> Array:
        self._blocks.append(super()._sums_memory(n_bytes))
        return self._blocks[-1]

    def _gather(self) -> None:
        self._parts = self._record_of.parts

    @property
    def _n_parts(self) -> int:
        return len(self._record_of.parts)

    def _cut(self, shared: Arrays, servers: int) -> list[tuple[int, int]]:
        length = len(self.learner.keys(shared))
        ranges = [(int(lo), int(hi)) for lo, hi in self._record_of.facts["ranges"]]
        if ranges[-1][1] != length:
            raise InputError(
                f"{self._record_of.folder} is the record of another run: its model has {ranges[-1][1]:,} numbers, this "
                f"one {length:,}"
            )
        return ranges

    @property
    def _every(self) -> int | None:
        keeps: int | None = self._record_of.facts["keeps"]
        return keeps

    def run(self) -> Arrays:
        """Return the state after the last update that was asked for, and what that one moved along."""
        learner, desk = self._detaching, self.desk
        while not desk.ended:
            limit = desk.limit
            if self._record_of.steps is not None and limit > self._record_of.steps:
                self._first = limit
                break
            if self._repeat(limit):
                learner.reached(self.shared, learner.milestone(self.shared)[0])
                state = learner.shown(self.shared)
                return {**{name: np.array(array) for name, array in state.items()}, **self._gradient()}
            desk.pause = desk.pauses, limit
            self._pause()
            self._first = limit
        self._check_end(self._record_of.steps)
        return {**learner.result(self.shared), **self._mover.kept(), **self._gradient()}

    def _check_end(self, steps: int | None) -> None:
        if steps is not None and self._first != steps:
            raise InputError(
                f"{self._record_of.folder} is the record of another run: it ended at step {steps}, this one at "
                f"{self._first}; write epochs and patience as they were"
            )

    def _repeat(self, limit: int) -> bool:
        """Repeat the steps before the next pause; True if the last one that was asked for was among them."""
        record, to = self._record_of, self._to
        logs = record.between(self._first, limit)
        ends = to is not None and self._first <= to < limit
        moves = [int(np.sum(log["moved"][log["step"] <= to] < TORN)) if ends else -1 for log in logs]
        left = sum(moves) if ends else -1
        if not left:
            return True
        self._check_returns(limit)
        for i in range(record.n_ranges):
            self._keep(i, begins=True)
        for move in schedule(logs, list(self._base), whole=record.steps is not None):
            if isinstance(move, Read):
                assert self._copies is not None
                self._seen[move.item][move.range] = [live.copy() for live, _ in self._copies[move.range]]
                continue
            if move.item.part == RESTORED:
                self._go_back(move.range, move.item.worker)
            else:
                self._apply_again(move.item, move.range)
            self._base[move.range] += 1
            self._keep(move.range)
            if move.last and move.item.part != RESTORED:
                del self._pushes[move.item]
            left -= ends and move.item.step <= (to or 0)
            if not left:
                return True
            self.worker.at_step(move.item.step)
        if record.steps is None and (ends or self._base != self._moved_before(limit)):
            raise InputError(
                f"{record.folder}: the run was cut short in the middle of its updates, and those of step {to} are not "
                "all known; write an earlier step"
            )
        self.told.tell(self.worker)
        return False

    def _moved_before(self, limit: int) -> list[int]:
        """Return how many moves of each range are recorded of the steps before one."""
        found = np.zeros(self._record_of.n_ranges, np.int64)
        for log in self._record_of.logs:
            found += np.bincount(log["range"][(log["step"] < limit) & (log["moved"] < TORN)], minlength=len(found))
        return [int(n) for n in found]

    def _apply_again(self, item: Item, i: int) -> None:
        push = self._pushes.get(item)
        if push is None:
            push = self._pushes[item] = self._compute_again(item)
        if push.empty and i < len(self._ranges):
            raise InputError(broken(f"step {item.step} moved weights, but none of its rows weighs anything"))
        self._move(i, push)
        if not push.empty:
            self._latest = push

    def _state_of(self, i: int) -> list[Array]:
        """Return all that moves with a range."""
        return self._blocks if i == len(self._ranges) else self._mover.part(i)

    def _keep(self, i: int, begins: bool = False) -> None:
        """Keep a range as it is if a server was set back to that; at the beginning of steps, if that was after it."""
        where = i, self._base[i]
        pause = self._record_of.kept.get(where)
        first = self._record_of.facts["first"]
        if pause is not None and (max(pause, first) == self._first if begins else pause <= self._first):
            self._kept[where] = [array.copy() for array in self._state_of(i)]

    def _go_back(self, i: int, version: int) -> None:
        """Set a range back to a version, as a server was that went on from an older copy."""
        for array, was in zip(self._state_of(i), self._kept[i, version], strict=True):
            array[:] = was
        if i < len(self._ranges) and isinstance(self.learner, Touching):
            self.learner.settle(self.shared, i, self._first)

    def _check_returns(self, limit: int) -> None:
        """Raise `InputError` if a server was set back while workers were at rest: what they judged is not known."""
        for log in self._record_of.between(self._first, limit):
            for entry in log[log["part"] == RESTORED]:
                if entry["moved"] == self._base[entry["range"]] and entry["moved"] > 0:
                    raise InputError(
                        f"{self._record_of.folder}: a server was lost at the pause before step {self._first}, and what "
                        "it had then is not in the record; record the run again"
                    )

    def _compute_again(self, item: Item) -> Push:
        assert self._copies is not None
        seen, data = self._seen.pop(item), self._hands.open(self._parts[item.part])
        for i, pairs in enumerate(self._copies):
            for (_, own), was in zip(pairs, seen[i], strict=True):
                own[:] = was
        with self.worker.phase("compute"):
            push = self._hands.push(self.shared, item.step, data)
        sums = {name: array.copy() for name, array in push.sums.items()}
        return dataclasses.replace(push, keys=push.keys.copy(), sums=sums)

    def _gradient(self) -> Arrays:
        if self._latest is None:
            return {}
        named = self._detaching.named(self.shared, self._latest)
        return {f"{GRADIENT}{name}": np.array(array) for name, array in named.items()}

    def _unjudged(self, pauses: int, mine: bool) -> list[int]:
        return [s for s in range(self.worker.n_shards) if self._judged[s] <= pauses]
