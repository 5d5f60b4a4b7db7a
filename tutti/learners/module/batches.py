"""Which rows make up each global batch: pure functions of the job, so every worker deals the same rows.

An epoch has ``ceil(n / batch_size)`` steps of equal size (to within a row), so no step is left with a handful of rows.
Every shard gives to each batch what its size entitles it to, each row once an epoch, in an order that depends on
(run, epoch, shard) alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from tutti.seeds import generator
from tutti.types import Array

Picks = list[tuple[int, Array]]
"""Rows by block: (number of the block, rows inside it)."""


def taken(shard_rows: Sequence[int], q: int) -> tuple[int, ...]:
    """Return how many rows of each shard are among the first ``q`` of an epoch (Sainte-Lague's apportionment).

    Row k of shard s stands at (2 k + 1) / (2 n_s), ties by shard id; so no count ever falls as ``q`` grows.

    Example
    -------
    >>> taken((4, 4, 2), 5)
    (2, 2, 1)
    """
    n = sum(shard_rows)
    unit = math.lcm(*(r for r in shard_rows if r))  # places of rows as whole numbers: no rounding, so no row twice
    gaps = [unit // r if r else 0 for r in shard_rows]
    counts = [(2 * r * q + n) // (2 * n) for r in shard_rows]
    while (excess := sum(counts) - q) > 0:
        _, s = max(((2 * c - 1) * gaps[s], s) for s, c in enumerate(counts) if c)
        counts[s] -= 1
    for _ in range(-excess):
        _, s = min(((2 * c + 1) * gaps[s], s) for s, c in enumerate(counts) if c < shard_rows[s])
        counts[s] += 1
    return tuple(counts)


_taken = lru_cache(maxsize=4096)(taken)


@dataclass(frozen=True)
class Deal:
    """Who gives which rows of its epoch order to which step.

    Parameters
    ----------
    shard_rows : rows of every shard that are trained on.
    batch_size : most rows of a global batch.
    """

    shard_rows: tuple[int, ...]
    batch_size: int

    @cached_property
    def n_rows(self) -> int:
        return sum(self.shard_rows)

    @cached_property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.n_rows // self.batch_size)

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Return, per shard, (start, stop) in its epoch order of the rows that step ``step`` of an epoch takes."""
        first, last = (self.n_rows * t // self.n_steps for t in (step, step + 1))
        return list(zip(_taken(self.shard_rows, first), _taken(self.shard_rows, last), strict=True))

    def fewest(self) -> int:
        """Return the fewest rows, but for none, that a shard gives to a batch (looked for in the first 1,000 steps)."""
        steps = range(min(self.n_steps, 1000))
        return min(hi - lo for t in steps for lo, hi in self.rows(t) if hi > lo)

    def n_of(self, step: int) -> int:
        """Return the rows of the global batch of a step."""
        return self.n_rows * (step + 1) // self.n_steps - self.n_rows * step // self.n_steps


def held_out(n_rows: int, fraction: float) -> int:
    """Return how many rows of a shard are kept for validation."""
    return int(n_rows * fraction + 0.5)


@dataclass(frozen=True)
class Deck:
    """The rows of one shard by (block, rows): those that are trained on, and those kept for validation."""

    train: tuple[tuple[int, Array], ...]
    valid: tuple[tuple[int, Array], ...]


def deck(seed: int, shard: int, bounds: Sequence[tuple[int, int]], fraction: float) -> Deck:
    """Draw the rows that are kept for validation, once a run; all others stay in their order."""
    n = bounds[-1][1] if bounds else 0
    n_valid = held_out(n, fraction)
    kept = np.zeros(n, bool)
    if n_valid:
        kept[generator(seed, shard, purpose="valid").permutation(n)[:n_valid]] = True
    train = tuple((i, np.flatnonzero(~kept[lo:hi])) for i, (lo, hi) in enumerate(bounds))
    valid = tuple((i, np.flatnonzero(kept[lo:hi])) for i, (lo, hi) in enumerate(bounds))
    return Deck(train, valid)


def epoch_order(seed: int, epoch: int, shard: int, rows: Sequence[tuple[int, Array]], shuffle: bool) -> Picks:
    """Return the blocks, and the rows inside each, in the order of an epoch.

    Blocks are shuffled, then the rows of each: a streamed shard decodes every block once an epoch.
    """
    if not shuffle:
        return list(rows)
    draw = generator(seed, shard, epoch, "order")
    return [(rows[i][0], draw.permutation(rows[i][1])) for i in draw.permutation(len(rows)).tolist()]


def pick(order: Picks, start: int, stop: int) -> Picks:
    """Return the rows at places start:stop of an order.

    Example
    -------
    >>> [(b, r.tolist()) for b, r in pick([(1, np.array([5, 6])), (0, np.array([2, 3]))], 1, 3)]
    [(1, [6]), (0, [2])]
    """
    if len(order) == 1:
        return [(order[0][0], order[0][1][start:stop])] if stop > start else []
    edges = np.cumsum([0, *(len(r) for _, r in order)]).tolist()
    found = []
    for (lo, hi), (block, rows) in zip(pairwise(edges), order, strict=True):
        if lo < stop and hi > start:
            found.append((block, rows[max(start - lo, 0) : stop - lo]))
    return found
