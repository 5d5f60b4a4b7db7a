"""The program of a rank under a parameter server on one host: take an item, compute its push, apply it, go on."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tutti.errors import PlanError, RunError
from tutti.protocols import Worker
from tutti.serving import Detaching, Housed, Pairs, Serving
from tutti.strategies import _record
from tutti.strategies._desk import Desk, Task
from tutti.strategies._hands import Hands, row_of, summed
from tutti.strategies._mover import Mover, own_memory
from tutti.strategies._record import Recorder
from tutti.strategies._store import Store
from tutti.strategies._told import Told
from tutti.strategies.server_optimizers import Elastic, table_of
from tutti.types import Array, Arrays, Fault, Push, Update

_RANGE_BYTES = 4 << 20  # keys of a range, where more ranges than servers are worth their locks
_RANGES = 4  # for each worker at most


class Service:
    """One rank's side; see the module.

    Parameters
    ----------
    worker, learner : who works on what.   Others : as in `ParameterServer`.
    """

    _copies: list[Pairs] | None = None
    """Of each range, where items are computed on copies."""

    def __init__(
        self,
        worker: Worker,
        learner: Serving,
        servers: int,
        staleness: float,
        optimizer: Any,
        claim: bool,
        record: str | None = None,
    ) -> None:
        commons = worker.commons()
        if commons is None:
            raise PlanError(
                "ParameterServer with staleness >= 1 needs workers that see the same memory: engine=tutti.Threads(n) "
                "or tutti.Processes(n) with transport='shm'; staleness=0 works anywhere"
            )
        self.worker, self.learner, self.optimizer, self._commons = worker, learner, optimizer, commons
        self.rank, self.size = worker.seat.rank, worker.size
        self._elastic = optimizer if isinstance(optimizer, Elastic) else None
        self._hands = Hands(worker, learner)
        self._owners = commons.memory(8 * worker.n_shards).view(np.int64)
        self._ready = commons.memory(8 * self.size).view(np.int64)
        join = worker.seat.life > 0 and self._ready[self.rank] == commons.run
        with worker.phase("read"):
            shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
            self._servers, ranges = servers, self._cut(shared, servers)
            keys_in = own_memory if self._elastic else commons.memory
            self.shared = learner.serve(shared, ranges, keys_in, self._sums_memory, join)
        self._ranges = ranges
        self._mover = Mover(learner, self.shared, ranges, optimizer, worker.start, commons.memory, self.size, join)
        self._states = self._mover.states
        self.store = Store(commons, self.rank, self.size, len(ranges) + 1, self._move, join)
        words = commons.memory(8 * Desk.n_words(self.size)).view(np.int64)
        (lock,) = commons.locks(1)
        self.desk = Desk(words, lock, commons, self.rank, self.size, self._n_parts, staleness, claim and worker.opens)
        first, _ = learner.milestone(self.shared)
        self.told = Told(commons, learner.progress(self.shared), first, join)
        self._sums: Array | None = None
        self._judged = commons.memory(8 * worker.n_shards).view(np.int64)
        self._turns, self._parts = 0, list[list[int]]()
        if isinstance(learner, Housed):
            self._house(learner, join)
        if join:
            self.desk.rejoin()
        else:
            self._judged[:] = 0
            over = learner.progress(self.shared).done
            self.desk.open(first, first if over else learner.next_pause(self.shared, self._every))
        if record is not None:
            self._begin_record(Path(record), join)
        self._gather()
        if record is not None:
            self._open_record(Path(record), first, join)

    def _gather(self) -> None:
        """Wait until all have written what they begin with."""
        for s in self.worker.seat.shards:
            self._owners[s] = self.rank
        self._meet(self._ready)
        owners = self._owners.tolist()
        self._parts = [[s for s, owner in enumerate(owners) if owner == r] for r in range(self.size)]

    def _meet(self, ready: Array) -> None:
        """Wait until all have come here."""
        commons, run = self._commons, self._commons.run
        ready[self.rank] = run
        commons.ring()
        commons.wait(lambda: all(ready[r] == run or commons.gone(r) for r in range(self.size)))
        if (ready != run).any():
            raise RunError(f"rank {int(np.argmax(ready != run))} was lost before it had begun")

    def _house(self, learner: Housed, join: bool) -> None:
        """Find room for what is private to shards, once it is known how many rows each has."""
        worker, commons = self.worker, self._commons
        rows, ready = (commons.memory(8 * n).view(np.int64) for n in (worker.n_shards, self.size))
        for s, data in worker.shards.items():
            rows[s] = data.n_rows
        self._meet(ready)
        learner.house(self.shared, rows.tolist(), self._n_parts, commons.memory, () if join else worker.seat.shards)

    def _cut(self, shared: Arrays, servers: int) -> list[tuple[int, int]]:
        n_bytes = self.learner.keys(shared).nbytes
        return self.learner.ranges(shared, max(servers, min(_RANGES * self.size, n_bytes // _RANGE_BYTES)))

    @property
    def _n_parts(self) -> int:
        return self.size

    @property
    def _every(self) -> int | None:
        return self.worker.keeps

    def _sums_memory(self, n_bytes: int) -> Array:
        return self._commons.memory(n_bytes)

    def _begin_record(self, folder: Path, join: bool) -> None:
        """Compute on copies from now on; have the folder ready before anybody writes into it."""
        worker, commons = self.worker, self._commons
        assert isinstance(self.learner, Detaching)
        self._copies = self.learner.detach(self.shared)
        self._rows = commons.memory(_record.DIGEST * worker.n_shards).reshape(worker.n_shards, _record.DIGEST)
        ready = commons.memory(8).view(np.int64)
        if join:
            return
        for s in worker.seat.shards:
            self._rows[s] = np.frombuffer(_record.rows_sha256(worker.open(s)), np.uint8)
        if self.rank == 0 and ready[0] != commons.run:
            _record.make_room(folder)
            ready[0] = commons.run
            commons.ring()
        commons.wait(lambda: ready[0] == commons.run or commons.gone(0))

    def _open_record(self, folder: Path, first: int, join: bool) -> None:
        if self.rank == 0 and not join:
            known = _record.known(self.worker, self.learner, self._copies or [], self._rows, first, self.desk.limit)
            more = {"parts": self._parts, "ranges": self._ranges, "servers": self._servers, "keeps": self._every}
            _record.begin(folder, {**known, **more, "server_optimizer": table_of(self.optimizer)})
        n_ranges = len(self._ranges) + 1
        self.store.recorder = Recorder(folder, self.worker.seat, self.size, len(self._parts), self._commons, n_ranges)

    def run(self) -> Arrays:
        """Return the state when all is done."""
        with ExitStack() as stack:
            if self.store.recorder is not None:
                stack.callback(self.store.recorder.close)
            return self._run()

    def _run(self) -> Arrays:
        while not self.desk.ended:
            while (task := self.desk.take()) is not None:
                self._work(task)
                if self.desk.speaks():
                    self.told.tell(self.worker)
            self._pause()
        self.worker.count("pushes", self.store.pushes)
        mean, most = self.store.age
        self.worker.count("push_age_mean", mean)
        self.worker.count("push_age_max", most)
        return {**self.learner.result(self.shared), **self._mover.kept()}

    # items

    def _work(self, task: Task) -> None:
        worker = self.worker
        losers = self.desk.losers(task.item) if task.left else []
        moved = self.store.moved(task.item, losers)
        torn = self.store.torn(task.item, losers)
        for i in torn:
            what = "the counts" if i == len(self._ranges) else f"key range {i} of {len(self._ranges)}"
            worker.emit(
                Fault(
                    f"rank {losers[0]} was lost while it moved {what} in step {task.step}: that push may be half "
                    "applied there, and is not applied again"
                )
            )
        recorder = self.store.recorder
        if recorder is not None:
            for loser in losers:
                recorder.lost(loser, task.item, self.store.moved(task.item, [loser]), torn)
        data = self._hands.open(self._parts[task.part])
        with worker.phase("compute"):
            versions = self.store.versions() if self._copies is None else self.store.pull(self._copies)
            if recorder is not None:
                recorder.read(versions)
            push = self._hands.push(self.shared, task.step, data)
            self._apply(task, push, versions, moved)
        worker.at_step(task.step)

    def _apply(self, task: Task, push: Push, versions: list[int], moved: Collection[int]) -> None:
        n = len(self._ranges)
        if push.empty:
            moved = {*moved, *range(n)}
        elif self._elastic is not None:
            for i in range(n):
                self.learner.move(self.shared, push, i, 1.0)
            self._turns += 1
            if self._turns % self._elastic.period:
                moved = {*moved, *range(n)}
        self.store.push(task.item, push, versions, moved)

    def _move(self, i: int, push: Push) -> None:
        """Move a range along a push; its lock is held."""
        if i < len(self._ranges):
            self._mover.move(i, push)
        else:
            self.learner.tally(self.shared, push, len(self._parts))
            self.told.note(self.learner, self.shared)

    # pauses

    def _pause(self) -> None:
        """Do what needs all workers at rest: judge, tell, keep; then one of them opens the desk again."""
        learner, desk = self.learner, self.desk
        pauses, step = desk.pause
        with self.store.locks[-1]:
            learner.reached(self.shared, step)
        due, own = learner.due(self.shared), None
        if self._elastic is not None:
            keys = learner.keys(self.shared)
            own, keys[:] = keys.copy(), self._states[0]
        desk.rest()
        judged = self._judge(pauses, step) if due else None
        while desk.pauses == pauses:
            self._commons.wait(lambda: desk.pauses > pauses or (desk.speaks() and desk.at_rest()))
            if desk.pauses == pauses:
                self._speak(judged)
        if own is not None and not desk.ended:
            learner.keys(self.shared)[:] = own

    def _speak(self, judged: Arrays | None) -> None:
        """Do what only one rank does at a pause."""
        learner, worker, desk = self.learner, self.worker, self.desk
        if judged is not None and learner.due(self.shared):  # else a rank that is gone has done it
            self.shared = learner.apply(self.shared, Update("summary", judged), 1.0)
            self.told.note(learner, self.shared)
        self.told.tell(worker)
        step, best = learner.milestone(self.shared)
        worker.keep(step, lambda: {**learner.snapshot(self.shared), **self._mover.kept()}, best)
        over = learner.progress(self.shared).done
        desk.go_on(desk.limit if over else learner.next_pause(self.shared, self._every), over)

    def _judge(self, pauses: int, step: int) -> Arrays:
        """Return the sums over all validation rows, each shard's from one rank."""
        found: Arrays = {}
        while True:
            for s in self._unjudged(pauses, mine=True):
                found = self._hands.judge(self.shared, step, s)
                self._table(found)[s] = row_of(found)
                self._judged[s] = pauses + 1
                self._commons.ring()
            if not self._unjudged(pauses, mine=False):
                break
            self._commons.wait(
                lambda: bool(self._unjudged(pauses, mine=True)) or not self._unjudged(pauses, mine=False)
            )
        if not found:  # a former life of this rank has judged its shards: only how the sums look is wanted
            found = self._hands.judge(self.shared, step, self.worker.seat.shards[0])
        return summed(self._table(found)[self._judged == pauses + 1], found)

    def _unjudged(self, pauses: int, mine: bool) -> list[int]:
        """Return shards whose validation rows have not been judged: those this rank has to judge, or all."""
        live, found = self.desk.live(), []
        for rank, shards in enumerate(self._parts):
            if rank not in live and not self.worker.opens:
                continue
            for s in shards:
                judge = rank if rank in live else live[s % len(live)]
                if self._judged[s] <= pauses and (judge == self.rank or not mine):
                    found.append(s)
        return found

    def _table(self, like: Arrays) -> Array:
        """Return where the sums of all shards lie; all ranks ask for it at the first pause that judges."""
        if self._sums is None:
            n = self.worker.n_shards
            width = sum(array.size for array in like.values())
            self._sums = self._commons.memory(8 * n * width).view(np.float64).reshape(n, width)
        return self._sums
