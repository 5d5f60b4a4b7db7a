"""Who works on what where every rank goes at its own pace: items handed out under a bound on how far ranks drift apart.

An item is part ``p`` of global step ``t``, number t * parts + p.  A rank may begin an item of step c only while
c - min(clocks) <= staleness; the clock of a rank is the step of the item it works on, or would work on next (stale
synchronous parallel: Ho, Cipar, Cui et al. 2013).  Ranks that are gone have no clock, and what they had begun is done
by another one.  At a pause, all that are left have finished their items and meet.

All is decided under one lock from words that all ranks see.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum

from tutti.protocols import Commons
from tutti.types import Array

_NEXT, _LIMIT, _PAUSES, _END = range(4)  # words of all: the first item not handed out, that of the next pause, ...
_ITEM, _OWN, _ARRIVED, _AT_REST, _DONE = range(5)
"""Words of a rank: item + 1 it works on, its next step, pauses it came to, pauses it was at rest in, items done."""
_LINE = 8


@dataclass(frozen=True)
class Task:
    """Part ``part`` of global step ``step``; ``left`` by a rank that is gone, which may have done some of it."""

    item: int
    step: int
    part: int
    left: bool = False


class Sign(Enum):
    """What there is instead of a task."""

    WAIT = "others are too far behind"
    PAUSE = "there is nothing to do before the next pause"


class Desk:
    """Hands out items.

    Parameters
    ----------
    words : (`n_words`,) int64 that all ranks see; `open` writes them, before anybody takes a task.
    lock : held while items are handed out.
    commons : rings, waits, and knows who is gone.
    rank, size : this rank, of how many.
    parts : items of a step.
    staleness : how many steps a rank may be ahead of the last one; may be infinite.
    claim : items go to whoever is free; False: part p of every step is rank p's.
    """

    def __init__(
        self,
        words: Array,
        lock: AbstractContextManager[object],
        commons: Commons,
        rank: int,
        size: int,
        parts: int,
        staleness: float,
        claim: bool,
    ) -> None:
        self._lock, self._commons, self._rank, self._size = lock, commons, rank, size
        self._parts, self._staleness, self._claim = parts, staleness, claim
        view = words.data
        self._all = view[:_LINE]
        self._lines = [view[(1 + r) * _LINE :][:_LINE] for r in range(size)]
        self._late = False
        self.pause = 0, 0
        """Of the pause that this rank has come to: how many there were before, and the step it comes before."""

    @staticmethod
    def n_words(size: int) -> int:
        return _LINE * (1 + size)

    def open(self, first: int, limit: int) -> None:
        """Begin with step ``first``; the first pause comes before step ``limit``.  Every rank writes the same."""
        for words in (self._all, *self._lines):
            for i in range(_LINE):
                words[i] = 0
        self._all[_NEXT], self._all[_LIMIT] = first * self._parts, limit * self._parts
        for line in self._lines:
            line[_OWN] = first

    def rejoin(self) -> None:
        """Go on in the seat of a rank that was lost, with what it had begun, instead of `open`."""
        self._late = True

    def retake(self) -> Task | None:
        """Come back to the seat of a rank that was gone; return what it had begun, unless another one has taken it."""
        with self._lock:
            mine = self._lines[self._rank]
            if mine[_ITEM] in {line[_ITEM] for line in self._lines if line is not mine}:
                mine[_ITEM] = 0
            item = mine[_ITEM] - 1
            return Task(item, *divmod(item, self._parts)) if item >= 0 else None

    def take(self) -> Task | None:
        """Finish the task in hand and return the next one; None at a pause, when all others have come there, too."""
        found = self.choose()
        self._commons.ring()
        while isinstance(found, Sign):
            if found is Sign.PAUSE:
                self.pause = self.pauses, self.limit  # nobody goes on before this rank has come
                if self._meet(self.pauses):
                    return None
            else:
                self._commons.wait(lambda: not self._early(self._mine()) or self._left() is not None)
            found = self.choose()
        return found

    def choose(self) -> Task | Sign:
        """Finish the task in hand; return the next one, or why there is none."""
        with self._lock:
            if self._late and (item := self._lines[self._rank][_ITEM] - 1) >= 0:
                return Task(item, *divmod(item, self._parts), left=True)
            self._late = False
            self._finish()
            left = self._left()
            item = self._mine() if left is None else left
            if left is None:
                if item >= self._all[_LIMIT]:
                    return Sign.PAUSE
                if self._early(item):
                    return Sign.WAIT
                if self._claim:
                    self._all[_NEXT] = item + 1
            self._lines[self._rank][_ITEM] = item + 1
            return Task(item, *divmod(item, self._parts), left is not None)

    def losers(self, item: int) -> list[int]:
        """Return the ranks that are gone and had begun the item, this one's former life too."""
        late, self._late = self._late, False
        return [r for r in (*self._gone(), *[self._rank] * late) if self._lines[r][_ITEM] == item + 1]

    @property
    def done(self) -> int:
        """Items that are finished, by whoever."""
        return sum(line[_DONE] for line in self._lines)

    # pauses

    @property
    def pauses(self) -> int:
        """How many pauses are over."""
        return self._all[_PAUSES]

    @property
    def ended(self) -> bool:
        """True if nothing comes after the last pause."""
        return bool(self._all[_END])

    @property
    def limit(self) -> int:
        """The step before which the next pause comes."""
        return self._all[_LIMIT] // self._parts

    def live(self) -> list[int]:
        """Return the ranks that are not gone."""
        return [r for r in range(self._size) if r == self._rank or not self._commons.gone(r)]

    def speaks(self) -> bool:
        """Tell whether this rank does what only one has to do."""
        return self.live()[0] == self._rank

    def rest(self) -> None:
        """Say that this rank has seen in which state the pause begins."""
        self._lines[self._rank][_AT_REST] = self.pause[0] + 1
        self._commons.ring()

    def at_rest(self) -> bool:
        """Tell whether all ranks have said so."""
        return all(self._lines[r][_AT_REST] > self.pause[0] for r in self.live())

    def go_on(self, limit: int, end: bool) -> None:
        """End the pause: the next one comes before step ``limit``, or never."""
        with self._lock:
            for line in self._lines:
                line[_OWN] = max(line[_OWN], self.limit)  # nobody does again what a rank that is gone left out
            self._all[_LIMIT], self._all[_END] = limit * self._parts, end
            self._all[_PAUSES] += 1
        self._commons.ring()

    def _meet(self, pauses: int) -> bool:
        """Wait for the others; False if something is left to do."""
        self._lines[self._rank][_ARRIVED] = pauses + 1
        self._commons.ring()
        self._commons.wait(lambda: self._met(pauses) or self._left() is not None)
        return self._met(pauses)

    def _met(self, pauses: int) -> bool:
        if self._all[_PAUSES] > pauses:
            return True
        lines = [self._lines[r] for r in self.live()]
        return all(line[_ARRIVED] > pauses and not line[_ITEM] for line in lines) and self._left() is None

    # items

    def _finish(self) -> None:
        mine = self._lines[self._rank]
        item = mine[_ITEM] - 1
        if item < 0:
            return
        for rank in self.losers(item):
            self._lines[rank][_ITEM] = 0
        step, part = divmod(item, self._parts)
        if part == self._rank:
            mine[_OWN] = max(mine[_OWN], step + 1)
        mine[_DONE] += 1
        mine[_ITEM] = 0

    def _mine(self) -> int:
        """Return the item that this rank takes next."""
        return self._next_of(self._rank)

    def _next_of(self, rank: int) -> int:
        return self._all[_NEXT] if self._claim else self._lines[rank][_OWN] * self._parts + rank

    def _early(self, item: int) -> bool:
        """Tell whether an item may not be begun yet."""
        clocks = [
            (self._lines[r][_ITEM] - 1 if self._lines[r][_ITEM] else self._next_of(r)) // self._parts
            for r in self.live()
            if r != self._rank
        ]
        return bool(clocks) and item // self._parts - min(clocks) > self._staleness

    def _gone(self) -> list[int]:
        return [r for r in range(self._size) if r != self._rank and self._commons.gone(r)]

    def _left(self) -> int | None:
        """Return an item that a rank that is gone has begun and nobody does."""
        gone = self._gone()
        if not gone:
            return None
        held = {self._lines[r][_ITEM] for r in range(self._size) if r not in gone}
        return min((self._lines[r][_ITEM] - 1 for r in gone if self._lines[r][_ITEM] not in (0, *held)), default=None)
