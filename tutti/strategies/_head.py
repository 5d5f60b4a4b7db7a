"""The first server: besides its key range it has the sums, hands out items under the clock rule, and leads the pauses.

It decides from what workers tell it with their requests and answers each when there is something to do; a worker that
is told to do something says so with its next request.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tutti.calling import Asked, Calls
from tutti.errors import RunError
from tutti.protocols import Worker
from tutti.serving import Serving
from tutti.strategies._desk import Desk, Sign, Task
from tutti.strategies._hands import row_of, summed
from tutti.strategies._server import Server
from tutti.strategies._server_record import Facts, Ledger
from tutti.strategies._talk import AGAIN, END, GATHER, JUDGE, JUDGED, KEEP, PATIENCE_SECONDS, STEP, WORK, Copy, Lone
from tutti.strategies._told import Told
from tutti.types import Array, Arrays, Fault, Push

_NOBODY = "all workers were lost; nobody is left who trains"
_LATE_SECONDS = 0.02  # what other servers have answered meanwhile is not new any more


class Head(Server):
    """Parameters as of `Server`; ``staleness`` as of `ParameterServer`; ``dealt``: the shards of each worker."""

    def __init__(
        self,
        worker: Worker,
        learner: Serving,
        calls: Calls,
        copy: Copy,
        dealt: list[list[int]],
        claim: bool,
        staleness: float,
        facts: Facts | None = None,
    ) -> None:
        n = len(dealt)
        super().__init__(worker, learner, calls, copy, 0, n, claim, None if facts is None else str(facts.folder))
        self._facts, self._tallied, self._handed = facts, 0, dict[int, int]()
        self._dealt, lone = dealt, Lone(calls)
        self._words = np.zeros(Desk.n_words(n), np.int64)
        (lock,) = lone.locks(1)
        self._desks = [Desk(self._words, lock, lone, r, n, n, staleness, claim) for r in range(n)]
        first, _ = learner.milestone(copy.shared)
        over = learner.progress(copy.shared).done
        self._desks[0].open(first, first if over else learner.next_pause(copy.shared, worker.keeps))
        self._told = Told(lone, learner.progress(copy.shared), first)
        self._base = first
        self._waiting: dict[int, tuple[Asked, dict[str, Any], float, float]] = {}
        self._hand: dict[int, Task] = {}
        self._sent: dict[int, int] = {}  # pushed here, but perhaps not to all other servers yet
        self._again: set[int] = set()  # who has to do again what another process on its seat had in hand
        self._redo: list[int] = []
        self._gone: set[int] = set()
        self._asked = False  # in this life: who is started again after the end finds nobody
        self._pause: _Pause | None = None
        self.spoke: tuple[int, int] | None = None
        """Who took note at the last pause."""

    def run(self) -> None:
        """Answer until all workers have left, which they may not do before the end."""
        super().run()
        if self._asked and not self._desks[0].ended:
            raise RunError(_NOBODY)

    # requests

    def handle(self, request: Asked, said: dict[str, Any]) -> None:
        """Carry out a request; who has done its part waits until there is something to do."""
        rank, self._asked = said["rank"], True
        if request.kind == JUDGED:
            self._note(said)
            if self._pause is not None:
                self._pause.hear(self, said)
            self.answer(request, {})
            return
        if request.kind != STEP:
            super().handle(request, said)
            return
        if said["life"] > self._lives[rank]:
            self._left(rank)
            if rank in self._hand:
                self._again.add(rank)
        if self._facts is not None and said.get("rows") is not None:
            self._facts.hear(said["rows"], self._desks[0].limit)
        self._note(said)
        self._sent.pop(rank, None)
        found = self.push(said)
        if said["item"] >= 0:
            self._sent[rank] = said["item"]
            self._hand.pop(rank, None)
        if self._pause is not None:
            self._pause.hear(self, said)
        now = time.monotonic()
        self._waiting[rank] = request, {**said, "found": found}, now, now

    def answer(self, request: Asked, said: dict[str, Any]) -> None:
        if request.kind == GATHER:
            said = {**said, "sums": self.copy.sums(), "aside": self.copy.aside}
        super().answer(request, said)

    def tally(self, push: Push) -> dict[int, int]:
        learner, shared = self.learner, self.copy.shared
        learner.tally(shared, push, self.n_workers)
        self._tell()
        self._tallied += 1
        return {len(self.copy.ranges): self._tallied - 1}

    @property
    def holds(self) -> list[int]:
        return [*super().holds, len(self.copy.ranges)]

    def _tell(self) -> None:
        self._told.note(self.learner, self.copy.shared)
        self._told.tell(self.worker)

    def _tell_loss(self, n: int) -> None:
        if n:
            name = f"server {self.i} (rank {self.worker.seat.rank})"
            what = f"the {n} update{'s' * (n != 1)} of its keys since its last snapshot"
            self.worker.emit(Fault(f"{name} was lost; {what} are computed again"))

    def _do(self, rank: int, what: str, **more: Any) -> None:
        """Tell a worker that waits what to do."""
        request, said, began, _ = self._waiting.pop(rank)
        found: dict[str, Any] = {"do": what, "base": self._base, **said["found"], **more}
        found["late"] = said["item"] < 0 or said["base"] < self._base or time.monotonic() - began > _LATE_SECONDS
        if what != AGAIN:
            found = {**found, "sums": self.copy.sums(), "tallied": self._tallied, **self.pull(request, said)}
        self.answer(request, found)

    # what is due

    def advance(self) -> None:
        """Give those who wait something to do, if there is anything."""
        super().advance()
        self._look_around()
        live = [r for r in range(self.n_workers) if r not in self._gone]
        if not live and not self._desks[0].ended:
            raise RunError(_NOBODY)
        if self._desks[0].ended:
            for rank in list(self._waiting):
                self._do(rank, END)
        elif self._pause is not None:
            self._pause.advance(self, live)
        else:
            self._hand_out(live)
        now = time.monotonic()
        for rank, (_, _, _, since) in list(self._waiting.items()):
            if now - since > PATIENCE_SECONDS:
                self._do(rank, AGAIN)

    def _look_around(self) -> None:
        """Take note of workers that are gone, and of those whose seat has been taken again."""
        for rank in range(self.n_workers):
            gone = self.calls.gone(rank)
            if gone and rank not in self._gone:
                self._gone.add(rank)
                self._left(rank)
            elif rank in self._gone and not gone:
                self._gone.discard(rank)
                task = self._desks[rank].retake()
                if task is not None:
                    self._hand[rank] = task
                    self._again.add(rank)

    def _hand_out(self, live: list[int]) -> None:
        signs: dict[int, Sign] = {}
        for rank in [rank for rank in self._waiting if rank in live]:
            found = self._next(rank)
            if isinstance(found, Task):
                self._hand[rank] = found
                attempt = self._attempt(found.item)
                self._do(rank, WORK, item=found.item, step=found.step, part=found.part, attempt=attempt)
            else:
                signs[rank] = found
        if self._redo or any(signs.get(rank) is not Sign.PAUSE for rank in live):
            return
        unsure = [rank for rank in live if rank in self._sent]
        for rank in unsure:
            self._do(rank, AGAIN)  # its next request says that all servers have its push
        if not unsure:
            self._pause = _Pause(self, live)

    def _attempt(self, item: int) -> int:
        """Return a number that no other order to do this item has."""
        n = self._handed[item] = self._handed.get(item, -1) + 1
        return self.worker.seat.life << 16 | n

    def _next(self, rank: int) -> Task | Sign:
        """Return what a worker does next."""
        if rank in self._again:
            self._again.discard(rank)
            return self._hand[rank]
        while self._redo:
            item = self._redo.pop(0)
            return Task(item, *divmod(item, self.n_workers), left=True)
        while isinstance(found := self._desks[rank].choose(), Task) and found.item in self.applied and not found.left:
            pass  # done before this server was started again
        return found

    def _left(self, rank: int) -> None:
        """Have others do what a process that is gone has perhaps not finished."""
        if rank in self._sent:
            self._redo.append(self._sent.pop(rank))
        hand = self._hand.get(rank)
        if rank in self._gone and hand is not None:
            del self._hand[rank]
            if hand.left:
                self._redo.append(hand.item)  # those that are not are known at the desk

    # pauses

    def paused(self, live: list[int]) -> int:
        """Begin a pause; return the step that it comes before."""
        step = self._desks[live[0]].limit
        self._base = step
        self.applied.skip(step)
        self.settle(step)
        self.learner.reached(self.copy.shared, step)
        return step

    def go_on(self) -> None:
        """End the pause."""
        learner, shared, desk = self.learner, self.copy.shared, self._desks[0]
        self._tell()
        over = learner.progress(shared).done
        desk.go_on(desk.limit if over else learner.next_pause(shared, self.worker.keeps), over)
        self._pause = None
        self._handed.clear()
        self.snapshot()

    def open_to(self, live: list[int]) -> dict[int, int]:
        """Return who judges which shard."""
        found = {}
        for rank, shards in enumerate(self._dealt):
            for s in shards:
                if rank in live:
                    found[s] = rank
                elif self.worker.opens:
                    found[s] = live[s % len(live)]
        return found

    def tell_to(self, rank: int, what: str, **more: Any) -> bool:
        """Tell a worker what to do; False if it is busy with something."""
        if rank in self._waiting:
            self._do(rank, what, **more)
        return rank not in self._waiting

    def process(self, rank: int) -> tuple[int, int]:
        """Return a rank and which of its processes it is."""
        return rank, self._lives[rank]

    def waits(self, rank: int) -> bool:
        return rank in self._waiting

    # snapshots

    def _set_back(self, ledger: Ledger) -> None:
        super()._set_back(ledger)
        sums = len(self.copy.ranges)
        n = ledger.moved(sums)
        ledger.restored(self._base, sums, self._tallied, n)
        self._tallied = n + 1

    def written(self) -> dict[str, Any]:
        found = super().written()
        sent = sorted({*self._sent.values(), *self._redo, *(task.item for task in self._hand.values())})
        return {
            **found,
            "sums": self.copy.sums(),
            "words": self._words,
            "sent": sent,
            "base": self._base,
            "tallied": self._tallied,
            "told": self._told.kept,
            "aside": self.copy.aside,
        }

    def read(self, written: dict[str, Any]) -> None:
        super().read(written)
        self.copy.put_sums(written["sums"])
        self._words[:] = written["words"]
        self._tallied = written["tallied"]
        self._base, self._redo = written["base"], written["sent"]
        self._told.go_on(written["told"])
        self.copy.put_aside(written["aside"])


class _Pause:
    """What is left to do at a pause: shards are judged, then the worker that speaks for all takes note and keeps."""

    def __init__(self, head: Head, live: list[int]) -> None:
        self._step = head.paused(live)
        self._due = head.learner.due(head.copy.shared)
        self._keeps = head.worker.keeps is not None
        self._judged: dict[int, dict[str, Array]] = {}
        self._speaker: int | None = None
        self._over = False

    def hear(self, head: Head, said: dict[str, Any]) -> None:
        """Take what a worker has found out."""
        if said.get("judged") is not None and said["step"] == self._step:
            self._judged |= {int(s): {k: np.array(v) for k, v in sums.items()} for s, sums in said["judged"].items()}
        if said.get("kept") is not None and said["step"] == self._step:
            head.copy.put_sums(said["kept"])
            head.copy.put_aside(said["aside"])
            head.spoke = head.process(said["rank"])
            self._over = True

    def advance(self, head: Head, live: list[int]) -> None:
        """Tell those who wait what is left to do."""
        if self._due and self._judging(head, live):
            return
        if not self._over and (self._due or self._keeps):
            if self._speaker not in live:
                self._speaker = None
            if self._speaker is None or head.waits(self._speaker):
                self._speaker = live[0] if head.tell_to(live[0], KEEP, **self._known(head, live[0])) else None
            return
        head.go_on()

    def _known(self, head: Head, rank: int) -> dict[str, Any]:
        """Return what who takes note has to know: what it did not set aside itself, too."""
        aside = None if head.spoke == head.process(rank) else head.copy.aside
        return {"step": self._step, "judged": self._merged(), "aside": aside}

    def _judging(self, head: Head, live: list[int]) -> bool:
        """Return whether shards are still to be judged."""
        open_to = head.open_to(live)
        if not open_to:
            raise RunError("the workers that could read the validation rows were lost")
        left = {s: rank for s, rank in open_to.items() if s not in self._judged}
        for rank in live:
            mine = [s for s, judge in left.items() if judge == rank]
            if mine and head.waits(rank):
                head.tell_to(rank, JUDGE, step=self._step, shards=mine)
        return bool(left)

    def _merged(self) -> Arrays | None:
        """Return the sums over all shards."""
        if not self._due:
            return None
        found = [self._judged[s] for s in sorted(self._judged)]
        return summed(np.array([row_of(sums) for sums in found]), found[0])
