"""The program of a worker whose servers are reached over a network: do what the first server says, push, pull.

What a step needs goes in one request to each server, side by side: the push of its range, and back comes what has
changed there.  The weights lie in this rank's memory from one step to the next.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tutti._parcel import payload, value_of
from tutti.calling import Calls
from tutti.errors import RunError
from tutti.protocols import Worker
from tutti.serving import Serving
from tutti.strategies._hands import Hands
from tutti.strategies._record import rows_sha256
from tutti.strategies._talk import AGAIN, END, GATHER, JUDGE, JUDGED, PULL, SLACK, STEP, UPDATES, WORK, Copy
from tutti.types import Array, Arrays, Push, Update

_NOWHERE = -1  # a version that no server has
_NAMED_BYTES = 1 << 8  # more than the name and shape of an array take in a message


class Client:
    """One worker's side; see the module.

    Parameters
    ----------
    worker, learner : of this rank.   copy : its copy of the state.   dealt : the shards of each worker.
    servers, staleness : as of `ParameterServer`.
    """

    def __init__(
        self,
        worker: Worker,
        learner: Serving,
        calls: Calls,
        copy: Copy,
        dealt: list[list[int]],
        servers: int,
        staleness: float,
        record: bool = False,
    ) -> None:
        self.worker, self.learner, self.calls, self.copy, self._dealt = worker, learner, calls, copy, dealt
        self._staleness, self._record = staleness, record
        rank = worker.seat.rank
        if sorted(worker.shards) != dealt[rank]:
            raise RunError(f"rank {rank} has shards {sorted(worker.shards)}, but {dealt[rank]} were expected")
        self._hands = Hands(worker, learner)
        self._elastic = copy.mover.elastic
        self._servers = [calls.asking(len(dealt) + s, copy.n_bytes + SLACK) for s in range(servers)]
        self._ranges = [*copy.ranges, *[(0, 0)] * (servers - len(copy.ranges))]
        self._have = [_NOWHERE] * servers
        self._until = [0] * servers
        self._pushed = [0] * servers
        self._base, self._turns, self._tallied = 0, 0, 0
        self._pushes, self._age, self._oldest = 0, 0, 0

    def run(self) -> Arrays:
        """Return the state when all is done."""
        order = self._step({"rows": self._rows()} if self._record else {})
        while order["do"] != END:
            if order["do"] == WORK:
                order = self._work(order)
            elif order["do"] == AGAIN:
                order = self._step({})
            elif order["do"] == JUDGE:
                order = self._judge(order)
            else:
                order = self._keep(order)
        self._gather()
        self.worker.count("pushes", self._pushes)
        self.worker.count("push_age_mean", self._age / max(self._pushes, 1))
        self.worker.count("push_age_max", self._oldest)
        return {**self.learner.result(self.copy.shared), **self.copy.mover.kept()}

    # what there is to do

    def _work(self, order: dict[str, Any]) -> dict[str, Any]:
        step, item = order["step"], order["item"]
        floor = -1 if math.isinf(self._staleness) else step - int(self._staleness)
        if order["late"]:
            self._pull(range(len(self._servers)), floor)
        while behind := [s for s, until in enumerate(self._until) if until < floor and s > 0]:
            self._pull(behind, floor)
        data = self._hands.open(self._dealt[order["part"]])
        with self.worker.phase("compute"):
            push = self._hands.push(self.copy.shared, step, data)
            own = self._own_step(push)
        self.worker.at_step(step)
        return self._push(item, order["attempt"], push, own)

    def _rows(self) -> dict[str, Array]:
        """Return the hashes of this worker's rows."""
        data = self._hands.open(self.worker.shards)
        return {str(s): np.frombuffer(rows_sha256(rows), np.uint8) for s, rows in data.items()}

    def _own_step(self, push: Push) -> bool:
        """Step this worker's own weights where averaging is elastic; True if it is time to meet the model."""
        if self._elastic is None or push.empty:
            return False
        for i in range(len(self.copy.ranges)):
            self.learner.move(self.copy.shared, push, i, 1.0)
        self._turns += 1
        return self._turns % self._elastic.period == 0

    def _judge(self, order: dict[str, Any]) -> dict[str, Any]:
        step = order["step"]
        with self._at_the_model():
            self.learner.reached(self.copy.shared, step)
            judged, n_bytes = dict[str, Arrays](), 0
            for s in order["shards"]:  # sums may be as large as the keys
                sums = self._hands.judge(self.copy.shared, step, s)
                found = {name: np.array(array) for name, array in sums.items()}  # the learner may use its memory again
                more = sum(array.nbytes + _NAMED_BYTES for array in found.values())
                if judged and n_bytes + more > self.copy.n_bytes:
                    self._ask(JUDGED, [0], {"judged": judged, "step": step})
                    judged, n_bytes = {}, 0
                judged[str(s)], n_bytes = found, n_bytes + more
        return self._step({"judged": judged, "step": step})

    def _keep(self, order: dict[str, Any]) -> dict[str, Any]:
        """Take note of a validation and write a checkpoint, for all."""
        learner, copy, step = self.learner, self.copy, order["step"]
        if order["aside"] is not None:
            copy.put_aside(order["aside"])
        judged = None if order["judged"] is None else {name: np.array(sums) for name, sums in order["judged"].items()}
        with self._at_the_model():  # whose requests use the memory of the order again
            if judged is not None:
                learner.reached(copy.shared, step)
                copy.shared = learner.apply(copy.shared, Update("summary", judged), 1.0)
            at, best = learner.milestone(copy.shared)
            sums = copy.sums()

            def state() -> Arrays:
                self._gather(sums)
                return {**learner.snapshot(copy.shared), **copy.mover.kept()}

            self.worker.keep(at, state, best)
            return self._step({"kept": sums, "aside": copy.aside, "step": step})

    # requests

    def _said(self, s: int, **more: Any) -> dict[str, Any]:
        seat = self.worker.seat
        common = {"rank": seat.rank, "life": seat.life, "base": self._base, "pushed": self._pushed[s]}
        return {**common, "have": self._have[s], **more}

    def _step(self, more: dict[str, Any]) -> dict[str, Any]:
        """Ask what is next, without a push."""
        return self._ask(STEP, [0], {"item": -1, "own": None, **more})[0]

    def _push(self, item: int, attempt: int, push: Push, own: bool) -> dict[str, Any]:
        """Push to all servers and ask the first one what is next."""
        known = {"item": item, "step": push.step, "share": push.share, "empty": push.empty, "sums": dict(push.sums)}
        known["attempt"] = attempt
        known["reads"] = [*(have & UPDATES for have in self._have[: len(self.copy.ranges)]), self._tallied]
        keys = {}
        for s, (lo, hi) in enumerate(self._ranges):
            moves = self._elastic is None and not push.empty
            mine = self._cut(push, s) if moves and hi > lo else None
            keys[s] = {
                "keys": None if mine is None else mine.keys,
                "touched": None if mine is None else mine.touched,
                "own": self.copy.keys[lo:hi] if own and hi > lo else None,
            }
        have = list(self._have)
        replies = self._ask(STEP, range(len(self._servers)), known, keys)
        self._pushes += 1
        ages = [reply["at"] - had for reply, had in zip(replies, have, strict=True)]
        age = max([age for age in ages if age < 1 << 31], default=0)  # others have been settled, or started again
        self._age, self._oldest = self._age + age, max(self._oldest, age)
        self._pushed = [n + 1 for n in self._pushed]
        return replies[0]

    def _cut(self, push: Push, s: int) -> Push:
        """Return what server ``s`` has to know."""
        if push.touched is None:
            return dataclasses.replace(push, keys=push.keys[slice(*self._ranges[s])])
        assert self.copy.touching is not None
        return self.copy.touching.cut(self.copy.shared, push, s)

    def _pull(self, servers: Iterable[int], floor: int = -1) -> None:
        """Have what servers have, as soon as all steps before ``floor`` are in it."""
        self._ask(PULL, servers, {"floor": floor})

    def _gather(self, sums: Array | None = None) -> None:
        """Have all that servers have; ``sums``: but for what counts and judges, which is known."""
        copy, replies = self.copy, self._gather_parts()
        copy.put_sums(replies[0]["sums"] if sums is None else sums)
        if sums is None:
            copy.put_aside(replies[0]["aside"])
        copy.keys[:] = copy.model
        self.learner.reached(copy.shared, self.learner.milestone(copy.shared)[0])

    def _gather_parts(self) -> list[dict[str, Any]]:
        """Have all that moves with every range."""
        replies = self._ask(GATHER, range(len(self._servers)), {})
        for i, reply in enumerate(replies[: len(self.copy.ranges)]):
            self.copy.put_part(i, reply["part"])
        return replies

    def _ask(
        self, kind: int, servers: Iterable[int], said: dict[str, Any], parts: dict[int, dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Ask servers side by side; take in what has changed there."""
        chosen = list(servers)
        with self.worker.phase("exchange"):
            for s in chosen:
                self._servers[s].ask(kind, *payload(self._said(s, **said, **(parts or {}).get(s, {}))))
            replies = self.calls.answers([self._servers[s] for s in chosen])
            found = [value_of(reply.payload) for reply in replies]
            for s, reply in zip(chosen, found, strict=True):
                self._take(s, reply)
        return found

    def _take(self, s: int, reply: dict[str, Any]) -> None:
        lo, hi = self._ranges[s]
        if reply.get("touched") is not None:
            keys, rows = self.copy.spots(s, reply["touched"])
            self.copy.model[lo:hi][keys] = reply["keys"]
            for own, came in zip(self.copy.beside(s), reply["beside"], strict=True):
                own[rows] = came
        elif reply.get("keys") is not None:
            self.copy.model[lo:hi] = reply["keys"]
            for own, came in zip(self.copy.beside(s), reply["beside"], strict=True):
                own[:] = came
            if self._elastic is not None and self._have[s] == _NOWHERE:
                self.copy.keys[lo:hi] = reply["keys"]  # a worker begins where the model is
        if reply.get("own") is not None:
            self.copy.keys[lo:hi] = reply["own"]
        if "version" in reply:
            self._have[s], self._until[s] = reply["version"], reply["until"]
        if s == 0:
            self._base = reply.get("base", self._base)
            if "do" in reply and reply.get("sums") is not None:
                self.copy.put_sums(reply["sums"])
                self._tallied = reply["tallied"]

    @contextmanager
    def _at_the_model(self) -> Iterator[None]:
        """Meanwhile the keys are the model's of now, where averaging is elastic, too."""
        begun, copy = _NOWHERE not in self._have, self.copy
        if copy.touching is not None:
            self._gather_parts()
        else:
            self._pull(range(len(self._servers)))
        own = copy.keys.copy() if self._elastic is not None and begun else None
        copy.keys[:] = copy.model
        try:
            yield
        finally:
            if own is not None:
                copy.keys[:] = own
