"""The keys of a model in memory that all ranks see, moved by pushes under the lock of each key range.

Whoever moves a range says so in a ledger before and after, so that when it dies another one goes on with the ranges
it had not begun: no push is applied twice, and one that was cut in the middle is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from tutti.protocols import Commons
from tutti.serving import Pairs
from tutti.strategies._record import Recorder
from tutti.types import Push

Move = Callable[[int, Push], None]
"""Moves one key range along a push; the last range is the sums."""


class Store:
    """The ranges of one rank's view.

    Parameters
    ----------
    commons : memory and locks.
    rank, size : this rank, of how many.
    n_ranges : key ranges, the sums among them.
    move : applies a push to a range, whose lock is held.
    join : others have begun; the ledger stays as it is.
    """

    recorder: Recorder | None = None
    """Writes down what is applied."""

    def __init__(self, commons: Commons, rank: int, size: int, n_ranges: int, move: Move, join: bool = False) -> None:
        self._rank, self._n, self._move = rank, n_ranges, move
        self.locks = commons.locks(n_ranges)
        words = commons.memory(8 * n_ranges * (1 + 2 * size)).view(np.int64)
        if not join:
            words[:] = 0
        table = words.reshape(1 + 2 * size, n_ranges)
        self._versions = table[0].data
        self._begun, self._done = table[1 : 1 + size], table[1 + size :]
        self._mine: tuple[memoryview, memoryview] = self._begun[rank].data, self._done[rank].data
        self._first = rank * (n_ranges - 1) // max(size, 1)  # ranks begin at different ranges, so they do not queue
        self.pushes, self._age_sum, self._age_max, self._ages = 0, 0, 0, 0

    def versions(self) -> list[int]:
        """Return how many pushes each range has had: what a pull of now reads."""
        return list(self._versions)

    def pull(self, copies: Sequence[Pairs]) -> list[int]:
        """Copy each range as it is between two pushes; return the versions."""
        found = []
        for i, pairs in enumerate(copies):
            with self.locks[i]:
                for live, own in pairs:
                    own[:] = live
                found.append(self._versions[i])
        return found

    def push(self, item: int, push: Push, versions: list[int], moved: Collection[int] = ()) -> None:
        """Apply a push to every range but those that another rank has ``moved``; ``versions`` are of its pull."""
        keys = self._n - 1
        for k in range(self._n):
            i = (self._first + k) % keys if k < keys else keys
            if i not in moved:
                with self.locks[i]:
                    self._apply(item, i, versions[i], push)
            elif self.recorder is not None:
                self.recorder.note(item, i, versions[i])
        self.pushes += 1

    def _apply(self, item: int, i: int, version: int, push: Push) -> None:
        """Apply a push to a range; every update of the model comes through here."""
        begun, done = self._mine
        begun[i] = item + 1
        self._move(i, push)
        now = self._versions[i]
        self._versions[i] = now + 1
        if self.recorder is not None:
            self.recorder.note(item, i, version, now)
        done[i] = item + 1
        if i < self._n - 1:
            self._ages += 1
            self._age_sum += now - version
            self._age_max = max(self._age_max, now - version)

    def moved(self, item: int, ranks: Iterable[int]) -> set[int]:
        """Return the ranges that the ranks have begun to move for the item."""
        return {i for r in ranks for i in np.flatnonzero(self._begun[r] == item + 1).tolist()}

    def torn(self, item: int, ranks: Iterable[int]) -> set[int]:
        """Return the ranges whose move for the item was cut in the middle."""
        return {
            i
            for r in ranks
            for i in np.flatnonzero((self._begun[r] == item + 1) & (self._done[r] != item + 1)).tolist()
        }

    @property
    def age(self) -> tuple[float, int]:
        """How many pushes of others a push of this rank was late: (mean, most)."""
        return self._age_sum / max(self._ages, 1), self._age_max
