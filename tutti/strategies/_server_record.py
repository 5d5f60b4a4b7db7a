"""What a server over sockets writes down: the order of its own updates, and what lost workers had read.

An item that is done again, after a worker or the first server was lost, is another attempt; an entry says so for those
that come after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutti.protocols import Worker
from tutti.serving import Detaching
from tutti.strategies._mover import own_memory
from tutti.strategies._order import ATTEMPT, ENTRY, NEVER, RESTORED, TORN
from tutti.strategies._record import RUN, Log, begin, known, make_room
from tutti.strategies._talk import Copy
from tutti.strategies.server_optimizers import table_of
from tutti.types import Array, Seat


class Ledger:
    """One server's side.

    Parameters
    ----------
    folder : of the record, which is there as soon as the first item is.
    seat, parts : of this server; items of a step.
    """

    def __init__(self, folder: Path, seat: Seat, parts: int) -> None:
        self._folder, self._seat, self._parts = folder, seat, parts
        self._log: Log | None = None
        self._attempt = 0
        self.last: dict[int, tuple[int, int, list[int]]] = {}
        """Of each worker: item, attempt and versions read of its last push."""

    def note(self, item: int, attempt: int, i: int, read: int, moved: int = NEVER) -> None:
        """Write down that an attempt at an item has moved range ``i`` from a version, or has only read it."""
        if attempt != self._attempt:
            self._write(attempt, ATTEMPT, 0, 0, 0)
            self._attempt = attempt
        self._write(*divmod(item, self._parts), i, read, moved)

    def gone(self, rank: int) -> None:
        """Write down what the last push of a process that is gone had read: other servers may not have that push."""
        item, attempt, reads = self.last.pop(rank, (0, 0, []))
        for i, read in enumerate(reads):
            self.note(item, attempt, i, read)

    def restored(self, base: int, i: int, version: int, moved: int) -> None:
        """Write down that range ``i`` was set back to a version."""
        self._write(base, RESTORED, i, version, moved)

    def moved(self, i: int) -> int:
        """Return how many versions of range ``i`` the processes before on this seat have written down."""
        found = 0
        for life in range(self._seat.life):
            for entries in attempts(Log.entries(self._folder, self._seat.rank, life)).values():
                moved = entries["moved"][(entries["range"] == i) & (entries["moved"] < TORN)]
                found = max(found, int(moved.astype(int).max(initial=-1)) + 1)
        return found

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _write(self, *entry: int) -> None:
        if self._log is None:
            self._log = Log(self._folder, self._seat.rank, self._seat.life)
        self._log.write(*entry)


def attempts(entries: Array) -> dict[int, Array]:
    """Return the entries of each attempt."""
    marks = entries["part"] == ATTEMPT
    of = np.zeros(len(entries), np.int64)
    if marks.any():
        known = np.concatenate([[0], entries["step"][marks]])
        of = known[np.cumsum(marks)]
    return {int(a): entries[(of == a) & ~marks] for a in np.unique(of[~marks])}


def by_attempt(logs: Sequence[Array]) -> tuple[list[Array], dict[tuple[int, int], int]]:
    """Return the entries of all servers by attempt, and of each (range, version) that was gone back to its pause.

    A return to an older version stands among the entries of the first attempt, at the step of the next update.
    """
    found: dict[int, list[Array]] = {0: [np.empty(0, ENTRY)]}
    for log in logs:
        for attempt, entries in attempts(log).items():
            found.setdefault(attempt, []).append(entries[entries["part"] != RESTORED])
    moves = np.concatenate([e[e["moved"] < TORN] for entries in found.values() for e in entries])
    kept: dict[tuple[int, int], int] = {}
    for log in logs:
        back = log[log["part"] == RESTORED].copy()
        for entry in back:
            kept[int(entry["range"]), int(entry["read"])] = int(entry["step"])
            near = moves[
                (moves["range"] == entry["range"]) & (abs(moves["moved"].astype(int) - int(entry["moved"])) < 2)
            ]
            entry["step"] = near["step"][near["moved"].argmax()] if len(near) else entry["step"]
        found[0].append(back)
    return [np.concatenate(found[attempt]) for attempt in sorted(found)], kept


class Facts:
    """Says in the record what the run was, as soon as all workers have told the first server which rows they have.

    Parameters
    ----------
    folder : made ready, instead of an older record.
    copy : the state that the run begins with.   Others : as in `ParameterServer`.
    """

    def __init__(
        self,
        folder: Path,
        worker: Worker,
        learner: Detaching,
        copy: Copy,
        dealt: list[list[int]],
        servers: int,
        of: Any,
    ) -> None:
        self.folder, self._worker, self._learner = folder, worker, learner
        self._more = {
            "parts": dealt,
            "ranges": copy.ranges,
            "servers": servers,
            "keeps": worker.keeps,
            "server_optimizer": table_of(of),
            "servers_write": True,
        }
        again = learner.init(worker.schema, seed=worker.seed, start=worker.start)
        self._first = learner.milestone(again)[0]
        self._copies = learner.detach(learner.serve(again, copy.ranges, own_memory, own_memory))
        self._rows: dict[int, Array] = {}
        self._pause: int | None = None
        if worker.seat.life == 0:
            make_room(folder)

    def hear(self, rows: Mapping[str, Array], pause: int) -> None:
        """Take the `rows_sha256` of some shards; ``pause``: the step before which all meet next."""
        self._pause = pause if self._pause is None else self._pause
        self._rows |= {int(s): np.array(digest) for s, digest in rows.items()}
        n = self._worker.n_shards
        if len(self._rows) == n and not (self.folder / RUN).exists():
            table = np.array([self._rows[s] for s in range(n)])
            found = known(self._worker, self._learner, self._copies, table, self._first, self._pause)
            begin(self.folder, {**found, **self._more})
