"""The program of a server: one key range and what moves with it, pushed and pulled by workers of other hosts.

Requests are handled one at a time; their order is the order of the updates.  Every so often the range is written into
memory of the seat, where another process finds it if this one is lost; what came after that is lost and told.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from tutti._parcel import payload, value_of
from tutti.calling import Answering, Asked, Calls
from tutti.protocols import Worker
from tutti.serving import Serving
from tutti.strategies._applied import Applied
from tutti.strategies._changes import Changes
from tutti.strategies._order import NEVER
from tutti.strategies._server_record import Ledger
from tutti.strategies._talk import GATHER, PATIENCE_SECONDS, PULL, SLACK, STEP, TURN, Copy
from tutti.types import Array, Fault, Push

_LOOK_SECONDS = 0.05
_SNAPSHOT_SECONDS = 2.0  # at least; a snapshot takes at most a twentieth of the time
_DUTY = 20.0
_ALL = 1 << 62  # more steps than there are


class Server:
    """Server ``i`` of a run; see the module.

    Parameters
    ----------
    worker, learner : of this rank.   copy : the state, of which range ``i`` is this server's.   Others : as there.
    """

    def __init__(
        self,
        worker: Worker,
        learner: Serving,
        calls: Calls,
        copy: Copy,
        i: int,
        n_workers: int,
        claim: bool,
        record: str | None = None,
    ) -> None:
        self.worker, self.learner, self.calls, self.copy = worker, learner, calls, copy
        self.i, self.n_workers, self.claim = i, n_workers, claim
        self._empty = i >= len(copy.ranges)  # a small model has fewer ranges than servers
        self.range = (0, 0) if self._empty else copy.ranges[i]
        self.applied = Applied(n_workers, learner.milestone(copy.shared)[0])
        self._moves, self._turn = 0, 0
        self.counted = dict.fromkeys(range(n_workers), 0)
        self._changes = Changes(copy.keys[slice(*self.range)].size // 2)
        self._settled = -1
        self._ledger = None if record is None else Ledger(Path(record), worker.seat, n_workers)
        self._lives = dict.fromkeys(range(n_workers), 0)
        self._held: list[tuple[Asked, dict[str, Any], float]] = []
        self._out: dict[bytes, Array] = {}
        self._callers: dict[int, bytes] = {}
        self._snapshots = Snapshots(calls, copy.n_bytes + SLACK)
        self._next_snapshot, self._dirty = 0.0, True
        self._missed: dict[int, int] | None = None
        self._gap = -1  # the pause after which updates are gone, until the next one
        self.answering: Answering

    def run(self) -> None:
        """Answer until all workers have left."""
        self._restore()
        self.answering = self.calls.answering(self.copy.n_bytes + SLACK)
        while not all(self.calls.gone(r) for r in range(self.n_workers)):
            for request in self.answering.wait(_LOOK_SECONDS):
                said = value_of(request.body)
                if said["life"] >= self._lives[said["rank"]]:  # else its sender has died, and another took its seat
                    self._known(request.caller, said["rank"])
                    self.handle(request, said)
            self.advance()
            self.worker.at_step(self._moves)
        self.worker.count("served", self._moves)
        if self._ledger is not None:
            self._ledger.close()

    @property
    def version(self) -> int:
        """What a worker has or not: how many updates, and before them, how often all of the range has changed."""
        return self._turn << TURN | self._moves

    def handle(self, request: Asked, said: dict[str, Any]) -> None:
        """Carry out a request."""
        self._note(said)
        if request.kind == GATHER:
            part = [] if self._empty else self.copy.mover.part(self.i)
            self.answer(request, {"part": part, "version": self.version, "until": self.until()})
        elif request.kind == PULL:
            self._held.append((request, said, time.monotonic()))
        elif request.kind == STEP:
            found = self.push(said)
            self.answer(request, {**found, **self.pull(request, said)})

    def advance(self) -> None:
        """Do what is due now, whether or not a request has come."""
        now, held = time.monotonic(), self._held
        self._held = []
        for request, said, since in held:
            if self.until() >= said["floor"] or now - since > PATIENCE_SECONDS:
                self.answer(request, self.pull(request, said))
            else:
                self._held.append((request, said, since))
        if self._ledger is not None:
            for rank in [r for r in self._ledger.last if self.calls.gone(r)]:
                self._ledger.gone(rank)
        if self._dirty and now >= self._next_snapshot:
            self.snapshot()

    def push(self, said: dict[str, Any]) -> dict[str, Any]:
        """Apply a push, if there is one; an item that was applied is not applied again."""
        rank, item = said["rank"], said["item"]
        found: dict[str, Any] = {"at": self.version}
        if said["own"] is not None:  # elastic: a worker's weights, drawn towards the model, which comes towards them
            found["own"] = np.array(said["own"])
            self.copy.mover.draw(self.i, found["own"])
            self._moved(None)
        if item >= 0:
            self._apply(said)
            self.counted[rank] += 1
        self._dirty = True
        return found

    def _apply(self, said: dict[str, Any]) -> None:
        item, found = said["item"], {}
        if self.applied.add(item):
            push = self._pushed(said)
            if not push.empty and push.keys is not None and not self._empty:
                found[self.i] = self._moves
                self.copy.mover.move(self.i, push)
                self._moved(push.touched)
            found |= self.tally(push)
        if self._ledger is not None:
            self._ledger.last[said["rank"]] = item, said["attempt"], said["reads"]
            for i in self.holds:
                self._ledger.note(item, said["attempt"], i, said["reads"][i], found.get(i, NEVER))

    @property
    def holds(self) -> list[int]:
        """The ranges that are moved here."""
        return [] if self._empty else [self.i]

    def _moved(self, touched: Array | None) -> None:
        self._moves += 1
        self._changes.note(self.version, touched)

    def settle(self, step: int) -> None:
        """Have the range as of a pause."""
        if step <= self._settled or self._empty:
            return
        self._settled = step
        touching = self.copy.touching
        if touching is not None and touching.settle(self.copy.shared, self.i, step):
            self._all_changed()

    def _all_changed(self) -> None:
        self._turn += 1
        self._changes.note(self.version, None)
        self._dirty = True

    def tally(self, push: Push) -> dict[int, int]:
        """Count a push; the first server does, and returns which version of the sums that was."""
        return {}

    def pull(self, request: Asked, said: dict[str, Any]) -> dict[str, Any]:
        """Return what has changed of the range since the version that the worker has."""
        found: dict[str, Any] = {"version": self.version, "until": self.until(), "keys": None}
        if said["have"] == self.version or self._empty:
            return found
        model, beside = self.copy.model[slice(*self.range)], self.copy.beside(self.i)
        touched = self._changes.since(said["have"])
        if touched is None:
            out = self._out.setdefault(request.caller, np.empty_like(model))
            out[:] = model  # what is on its way must not change
            return {**found, "keys": out, "beside": [array.copy() for array in beside]}
        keys, rows = self.copy.spots(self.i, touched)
        return {**found, "touched": touched, "keys": model[keys], "beside": [array[rows] for array in beside]}

    def until(self) -> int:
        """Return the first step that is not complete here; what is gone for good is not waited for."""
        if self._gap >= 0:
            return _ALL
        gone = [] if self.claim else [r for r in range(self.n_workers) if self.calls.gone(r)]
        return self.applied.until(gone)

    def answer(self, request: Asked, said: dict[str, Any]) -> None:
        self.answering.reply(request, request.kind, *payload(said))

    def _pushed(self, said: dict[str, Any]) -> Push:
        """Return the push, whose keys are whole arrays for the learner, but only this range is read."""
        keys, touched = said["keys"], said["touched"]
        if keys is not None and touched is None:
            lo, hi = self.range
            self._whole()[lo:hi] = keys
            keys = self._whole()
        return Push(said["step"], said["share"], keys, said["sums"], said["empty"], touched)

    def _whole(self) -> Array:
        if not hasattr(self, "_keys"):
            self._keys = np.zeros_like(self.copy.keys)  # what is not touched costs no memory
        return self._keys

    # what outlives this process

    def snapshot(self) -> None:
        """Write down what another process needs to go on from here."""
        began = time.monotonic()
        self._snapshots.write(payload(self.written()))
        ended = time.monotonic()
        self._next_snapshot, self._dirty = ended + max(_SNAPSHOT_SECONDS, _DUTY * (ended - began)), False

    def written(self) -> dict[str, Any]:
        """Return the state of this server as plain values."""
        return {
            "part": [] if self._empty else self.copy.mover.part(self.i),
            "applied": self.applied.written(),
            "version": [self._moves, self._turn, self._settled],
            "counted": [self.counted[r] for r in range(self.n_workers)],
            "lives": [self._lives[r] for r in range(self.n_workers)],
        }

    def read(self, written: dict[str, Any]) -> None:
        """Go on from what another process has `written`."""
        if not self._empty:
            self.copy.put_part(self.i, written["part"])
        self.applied = Applied.read(self.n_workers, written["applied"])
        self._moves, self._turn, self._settled = written["version"]
        self._turn = max(self._turn, self.worker.seat.life << 16)  # no worker has a version with these bits
        self._all_changed()
        self.counted = dict(enumerate(written["counted"]))
        self._lives = dict(enumerate(written["lives"]))

    def _restore(self) -> None:
        found = self._snapshots.read() if self.worker.seat.life else None
        if found is None:
            self.snapshot()
            return
        self.read(value_of(found))
        self._missed, self._gap = {}, 0
        if self._ledger is not None:
            self._set_back(self._ledger)

    def _set_back(self, ledger: Ledger) -> None:
        """Count on from what the process before has written down, so that no version has two meanings."""
        if not self._empty:
            n = ledger.moved(self.i)
            ledger.restored(max(self._settled, 0), self.i, self._moves, n)
            self._moves = n + 1

    def _note(self, said: dict[str, Any]) -> None:
        """Take note of who asks; after a restart, of how many of its pushes are lost."""
        rank, life = said["rank"], said["life"]
        self.applied.skip(said["base"])
        self.settle(said["base"])
        if life > self._lives[rank]:
            self._lives[rank], self.counted[rank] = life, 0
            if self._ledger is not None:
                self._ledger.gone(rank)
        if self._missed is None:
            self._gap = -1 if said["base"] > self._gap else self._gap
            return
        self._gap = max(self._gap, said["base"])
        self._missed.setdefault(rank, max(said["pushed"] - self.counted[rank], 0))
        self.counted[rank] = max(said["pushed"], self.counted[rank])
        live = {r for r in range(self.n_workers) if not self.calls.gone(r)}
        if live <= set(self._missed):
            self._tell_loss(sum(self._missed.values()))
            self._missed = None

    def _known(self, caller: bytes, rank: int) -> None:
        """Forget who called for this rank before."""
        before = self._callers.get(rank, caller)
        if before != caller:
            self.answering.forget(before)
            self._out.pop(before, None)
        self._callers[rank] = caller

    def _tell_loss(self, n: int) -> None:
        lo, hi = self.range
        name = f"server {self.i} (rank {self.worker.seat.rank})"
        self.worker.emit(
            Fault(f"{name} was lost; {n} update{'s' * (n != 1)} of keys {lo}:{hi} since its last snapshot are gone")
        )


class Snapshots:
    """The newest of two places in memory that outlives the process; it changes when the other one is whole.

    Parameters
    ----------
    calls : has that memory.   n_bytes : of a snapshot, at most.
    """

    def __init__(self, calls: Calls, n_bytes: int) -> None:
        memory = calls.memory(64 + 2 * n_bytes)
        self._run = calls.run
        self._head, self._both = memory[:16].view(np.int64), (memory[64 : 64 + n_bytes], memory[64 + n_bytes :])
        self._turn = 0

    def write(self, pieces: list[Any]) -> None:
        """Write a snapshot, given in pieces."""
        self._turn = 1 - self._turn
        to, at = self._both[self._turn], 0
        for piece in pieces:
            raw = np.frombuffer(piece, np.uint8)
            to[at : at + len(raw)] = raw
            at += len(raw)
        self._head[1] = 2 * at + self._turn  # one word, which is there or not
        self._head[0] = self._run

    def read(self) -> memoryview | None:
        """Return the newest snapshot; None if there is none of this run."""
        run, word = self._head.tolist()
        if run != self._run:
            return None
        n, self._turn = divmod(word, 2)
        return memoryview(self._both[self._turn][:n].tobytes())
