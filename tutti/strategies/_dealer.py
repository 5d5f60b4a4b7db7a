"""Who performs which task of a stage, decided while it runs, and where the parts lie: in memory that all ranks see.

A task that nobody has begun is taken under one lock.  What a rank has performed it keeps until all tasks are, since
only then it is known how much memory all parts take; a rank that is lost before its parts lie there leaves tasks that
others take again, with the same bits.  The words of a stage are stamped by its number, and two tables are used in
turn: nobody enters a stage while somebody still reads the one before the last.
"""

from __future__ import annotations

import heapq
import mmap
import time
from collections.abc import Sequence

import numpy as np

from tutti._pages import give_back
from tutti._parcel import lay_out, raw, unpack
from tutti.protocols import Commons
from tutti.tasking import Lent
from tutti.types import Array, Arrays

_HOLDER, _BYTES, _TEXT, _THERE = range(4)  # words of a task: rank + 1, bytes + 1 of its part, bytes of text, 1 if there
_RUN, _STAGE = range(2)
_LEFT, _PACE, _BEGAN, _COST = range(4)  # words of a rank: stages it has left; the others are float64
_LINE = 8
_LARGE = 1 << 18  # bytes of a part
_MANY = 64  # tasks left: nobody thinks about leaving some to others before


class Stock:
    """Memory that grows: all ranks ask for the same sizes in the same order."""

    def __init__(self, commons: Commons) -> None:
        self._commons, self._held = commons, np.empty(0, np.uint8)

    def of(self, n_bytes: int) -> Array:
        """Return at least so many bytes, what they held before if they sufficed."""
        if len(self._held) < n_bytes:
            self._held = self._commons.memory(max(n_bytes, 2 * len(self._held)))
        return self._held


class Dealer:
    """One rank's side of all stages.

    Parameters
    ----------
    commons : memory, a bell, and who is gone.
    rank, size : this rank, of how many.
    """

    def __init__(self, commons: Commons, rank: int, size: int) -> None:
        self._commons, self._rank, self._size = commons, rank, size
        (self._lock,) = commons.locks(1)
        words = commons.memory(8 * _LINE * (1 + size)).view(np.int64).reshape(1 + size, _LINE)
        self._lines, self._reals = words[1:], words[1:].view(np.float64)
        self._tables, self._areas = (Stock(commons), Stock(commons)), (Stock(commons), Stock(commons))
        with self._lock:
            if words[0, _RUN] != commons.run:
                words[1:] = 0
                words[0, _RUN] = commons.run
        self._stage = -1

    def begin(self, costs: Sequence[float], dealt: Sequence[int] | None) -> None:
        """Enter the next stage.

        Parameters
        ----------
        costs : of its tasks.   dealt : the rank that each task is for; None: whoever is free takes the largest.
        """
        self._stage += 1
        stage, n = self._stage, len(costs)
        self._costs, self._dealt = costs, dealt
        self._mine = (
            sorted(range(n), key=lambda t: -costs[t])
            if dealt is None
            else [t for t in range(n) if dealt[t] == self._rank]
        )
        self._next = 0
        own = self._reals[self._rank]
        own[_PACE] = own[_BEGAN] = own[_COST] = 0.0
        self._spent = self._worked = 0.0
        words = self._tables[stage & 1].of(8 * (4 + 4 * n)).view(np.int64)
        self._commons.wait(lambda: all(self._lines[r, _LEFT] >= stage - 1 for r in self.live()))
        self._table = table = words[4 : 4 + 4 * n].reshape(4, n)
        with self._lock:
            if words[_RUN] != self._commons.run or words[_STAGE] != stage:
                table[:] = 0
                words[_RUN], words[_STAGE] = self._commons.run, stage
        self._kept: dict[int, Array] = {}
        self._area: Array | None = None

    def live(self) -> list[int]:
        """Return the ranks that are not gone."""
        return [r for r in range(self._size) if r == self._rank or not self._commons.gone(r)]

    @property
    def done(self) -> int:
        """How many tasks of the stage have been performed, by whoever."""
        return int(np.count_nonzero(self._table[_BYTES]))

    def hands(self) -> int:
        """Return how many workers there are for each task that is not done: 1 as long as there are enough tasks."""
        left = len(self._costs) - self.done
        return max(len(self.live()) // max(left, 1), 1)

    def take(self) -> int | None:
        """Return a task for this rank; None when every part of the stage is there."""
        while True:
            with self._lock:
                task = self._choose()
                if task is not None:
                    self._table[_HOLDER, task] = self._rank + 1
                    own = self._reals[self._rank]
                    own[_BEGAN], own[_COST] = time.perf_counter(), self._costs[task]
                    return task
            if self._area is None and self._table[_BYTES].all():
                self._lay()
            elif self._table[_THERE].all():
                return None
            else:
                self._commons.wait(self._awaited)

    def give(self, task: int, part: Arrays) -> None:
        """Say that this rank has performed a task."""
        own = self._reals[self._rank]
        self._spent += time.perf_counter() - own[_BEGAN]
        self._worked += max(self._costs[task], 1e-300)
        own[_PACE], own[_COST] = self._spent / self._worked, 0.0
        text, arrays, n_bytes = lay_out(dict(part))
        self._table[_TEXT, task] = len(text)
        self._table[_BYTES, task] = n_bytes + 1
        if self._area is None:
            self._kept[task] = block = _block(n_bytes)
            _write(text, arrays, block)
        else:
            _write(text, arrays, self._place(task))
            self._table[_THERE, task] = 1
        self._commons.ring()

    def parts(self) -> Lent:
        """Return the parts of all tasks, by number: views to be read until `leave`."""
        places = [self._place(task) for task in range(len(self._costs))]
        for place in places:
            place.flags.writeable = False
        found = [unpack(n, place) for n, place in zip(self._table[_TEXT].tolist(), places, strict=True)]
        name = f"the parts of stage {self._stage}"
        return Lent(found, lambda make: self._commons.once(name, make), self._read)

    def _read(self, task: int) -> None:
        """Give back the memory of a part, but for its text, which other ranks may not have read."""
        if self._commons.alone:
            give_back(self._place(task)[int(self._table[_TEXT, task]) :])

    def leave(self, kept: Arrays) -> dict[str, Array]:
        """Leave the stage; return arrays that do not lie where the parts do."""
        assert self._area is not None
        area = self._area
        found = {name: a.copy() if np.may_share_memory(a, area) else a for name, a in kept.items()}
        self._lines[self._rank, _LEFT] = self._stage + 1
        self._commons.ring()
        return found

    # tasks

    def _choose(self) -> int | None:
        holder = self._table[_HOLDER]
        gone = [r + 1 for r in range(self._size) if r != self._rank and self._commons.gone(r)]
        if gone:
            held = holder.copy()  # `_awaited` asks without the lock, and isin reads what it is given twice
            orphans = np.isin(held, gone) & (self._table[_THERE] == 0)
            if self._dealt is not None:
                orphans |= np.isin(self._dealt, np.array(gone) - 1) & (held == 0)
            if orphans.any():
                return int(orphans.argmax())
        mine = self._mine
        while self._next < len(mine) and holder[mine[self._next]]:
            self._next += 1
        rest = mine[self._next : self._next + _MANY]
        if self._dealt is not None or len(rest) == _MANY:
            return rest[0] if rest else None
        free = [t for t in rest if not holder[t]]
        if not free:
            return None
        most = self._most(free)
        return next((t for t in free if self._costs[t] <= most), None)

    def _most(self, free: Sequence[int]) -> float:
        """Return the cost up to which this rank does a task before the others would have done all that is free."""
        now, pace = time.perf_counter(), float(self._reals[self._rank, _PACE])
        others = [self._reals[r].tolist() for r in self.live() if r != self._rank]
        others = [(line[_PACE], line[_BEGAN], line[_COST]) for line in others if line[_PACE] > 0]
        if not pace or not others:
            return np.inf
        return (finished(now, others, [self._costs[t] for t in free]) - now) / pace

    def _awaited(self) -> bool:
        table = self._table
        if (self._area is None and table[_BYTES].all()) or table[_THERE].all():
            return True
        return self._choose() is not None

    # parts

    def _lay(self) -> None:
        """Bring the parts of this rank where all see them."""
        sizes = self._table[_BYTES] - 1
        self._ends = np.cumsum(sizes)
        self._area = self._areas[self._stage & 1].of(int(self._ends[-1]))
        while self._kept:
            task, block = self._kept.popitem()
            self._place(task)[:] = block
            self._table[_THERE, task] = 1
            del block
        self._commons.ring()

    def _place(self, task: int) -> Array:
        assert self._area is not None
        end = int(self._ends[task])
        return self._area[end - int(self._table[_BYTES, task]) + 1 : end]


def _block(n_bytes: int) -> Array:
    """Return private memory that goes back to the system at once when nobody refers to it, if it is large."""
    if n_bytes < _LARGE:
        return np.empty(n_bytes, np.uint8)
    return np.frombuffer(mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _write(text: bytes, arrays: Sequence[tuple[int, Array]], place: Array) -> None:
    """Write what `lay_out` has laid out."""
    place[: len(text)] = np.frombuffer(text, np.uint8)
    for at, array in arrays:
        place[at : at + array.nbytes] = np.frombuffer(raw(array), np.uint8)


def finished(now: float, others: Sequence[tuple[float, float, float]], costs: Sequence[float]) -> float:
    """Return when ranks would have done all tasks, each taking the next one when it is free.

    Parameters
    ----------
    others : (seconds per cost, when it began what it does, cost of that) of each rank; cost 0: it is free.
    costs : of the tasks, in the order in which they are taken.
    """
    free = [(_free(now, *other), other[0]) for other in others]
    heapq.heapify(free)
    for cost in costs:
        at, pace = free[0]
        heapq.heapreplace(free, (at + pace * cost, pace))
    return max(at for at, _ in free)


def _free(now: float, pace: float, began: float, cost: float) -> float:
    """Return when a rank is through; one that is late is thought to need as long again."""
    if not cost:
        return now
    due = began + pace * cost
    return due if due > now else now + (now - began)
