"""Pure planning: which rows belong to which shard, as functions of numbers alone.

Nothing here reads data or knows workers.  Rows are a slice where they are consecutive and a sorted index array where
they are not; a row stays in the order of the source inside its shard, so files are read forwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.seeds import generator
from tutti.types import Array

Rows: TypeAlias = "slice | Array"
"""slice(start, stop), or a sorted int64 array in which a row may occur more than once after a resampling."""

Extent: TypeAlias = "tuple[int, slice | Array]"
"""(index of a piece, rows inside it)."""


@dataclass(frozen=True, eq=False)
class ShardMap:
    """The rows of every shard, settled: what a worker needs in order to open one."""

    rows: tuple[Rows, ...]

    @property
    def n_shards(self) -> int:
        return len(self.rows)


def count(rows: Rows) -> int:
    """Return the number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def contiguous(n_rows: int, n_shards: int) -> tuple[Rows, ...]:
    """Cut 0..n_rows-1 into runs whose lengths differ by at most one."""
    return _runs([n_rows * s // n_shards for s in range(n_shards + 1)])


def round_robin(n_rows: int, n_shards: int) -> tuple[Rows, ...]:
    """Give row i to shard i mod n_shards."""
    return tuple(np.arange(s, n_rows, n_shards, dtype=np.int64) for s in range(n_shards))


def random(n_rows: int, n_shards: int, seed: int) -> tuple[Rows, ...]:
    """Deal the rows out by a seeded permutation, into sizes that differ by at most one."""
    order = generator(seed, purpose="shards").permutation(n_rows)
    return tuple(np.sort(order[r]) for r in contiguous(n_rows, n_shards))


def stratified(codes: Array, n_shards: int) -> tuple[Rows, ...]:
    """Deal the rows of each class out in turn: every class, and every shard, is even to within one row."""
    order = np.argsort(codes, kind="stable").astype(np.int64)
    return tuple(np.sort(order[s::n_shards]) for s in range(n_shards))


def balanced(cost: Array, n_shards: int, knots: Array | None = None) -> tuple[Rows, ...]:
    """Cut into runs of rows of about equal cost.

    Parameters
    ----------
    cost : non-decreasing cumulative cost at each knot, from the first row to the end (a CSR ``indptr`` fits).
    knots : rows at which ``cost`` is known, linear in between; None means every row.
    """
    n_rows = len(cost) - 1 if knots is None else int(knots[-1])
    total = float(cost[-1]) - float(cost[0])
    if total <= 0:
        return contiguous(n_rows, n_shards)
    edges = [0]
    for s in range(1, n_shards):
        target = float(cost[0]) + total * s / n_shards
        i = min(max(int(np.searchsorted(cost, target, side="right")) - 1, 0), len(cost) - 2)
        lo, hi = (i, i + 1) if knots is None else (int(knots[i]), int(knots[i + 1]))
        step = float(cost[i + 1]) - float(cost[i])
        edges.append(max(edges[-1], round(lo + (hi - lo) * ((target - float(cost[i])) / step if step else 0.0))))
    return _runs([*edges, n_rows])


def _runs(edges: Sequence[int]) -> tuple[Rows, ...]:
    return tuple(slice(int(lo), int(hi)) for lo, hi in pairwise(edges))


def pick(chosen: Rows, rows: Rows) -> Rows:
    """Return ``chosen[rows]``: positions inside a selection become rows of the source."""
    if isinstance(chosen, slice):
        if isinstance(rows, slice):
            return slice(chosen.start + rows.start, chosen.start + rows.stop)
        return rows + chosen.start if chosen.start else rows
    return chosen[rows]


def extents(rows: Rows, piece_rows: Sequence[int]) -> tuple[Extent, ...]:
    """Translate rows of the source into (piece, rows inside it), in the order of the source.

    Parameters
    ----------
    rows : rows of the source.
    piece_rows : rows of each piece.
    """
    starts = np.concatenate([[0], np.cumsum(np.asarray(piece_rows, dtype=np.int64))])
    if not count(rows):
        return ()
    found: list[Extent] = []
    if isinstance(rows, slice):
        first = int(np.searchsorted(starts, rows.start, side="right")) - 1
        for p in range(first, len(piece_rows)):
            lo, hi = max(rows.start, int(starts[p])), min(rows.stop, int(starts[p + 1]))
            if lo >= rows.stop:
                break
            if lo < hi:
                found.append((p, slice(lo - int(starts[p]), hi - int(starts[p]))))
        return tuple(found)
    cuts = np.searchsorted(rows, starts)
    for p in range(len(piece_rows)):
        inside = rows[cuts[p] : cuts[p + 1]]
        if len(inside):
            found.append((p, _tidy(inside - starts[p])))
    return tuple(found)


def _tidy(rows: Array) -> Rows:
    """A run of consecutive rows is a slice, which is read without a copy."""
    if rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def split_sizes(n_rows: int, test_size: float | int) -> tuple[int, int]:
    """Return (train rows, test rows), the same counts as scikit-learn's ``train_test_split``.

    A float is a fraction of the rows (the test part is rounded up), an int a number of rows.
    """
    is_int = isinstance(test_size, int) and not isinstance(test_size, bool)
    if not is_int and not (isinstance(test_size, float) and 0 < test_size < 1):
        raise ParameterError("test_size", test_size, "write a fraction between 0 and 1, or a number of rows (int)")
    n_test = int(test_size) if is_int else math.ceil(test_size * n_rows)
    if not 0 < n_test < n_rows:
        raise ParameterError(
            "test_size",
            test_size,
            f"both parts need at least one of the {n_rows} rows; came {n_test} for the test part",
        )
    return n_rows - n_test, n_test


def held_out_rows(n_rows: int, n_test: int, seed: int, codes: Array | None = None) -> Array:
    """Return the sorted rows of the test part: drawn at random, or in proportion from each class of ``codes``."""
    draw = generator(seed, purpose="split")
    if codes is None:
        return np.sort(draw.permutation(n_rows)[:n_test])
    counts = np.bincount(codes)
    if counts[counts > 0].min() < 2:
        raise DataError(
            "The least populated class in y has only 1 member: a stratified split needs at least 2 rows of each class; "
            "write stratify=False"
        )
    share = _proportional(counts, n_test)
    rows = []
    for c, k in enumerate(share):
        rows.append(draw.permutation(np.flatnonzero(codes == c))[:k])
    return np.sort(np.concatenate(rows))


def _proportional(counts: Array, total: int) -> list[int]:
    """Largest remainders: shares that sum to ``total`` and are off by less than one row per class."""
    exact = [int(c) * total for c in counts]
    n = int(counts.sum())
    share = [e // n for e in exact]
    short = total - sum(share)
    for c in sorted(range(len(exact)), key=lambda c: (-(exact[c] % n), c))[:short]:
        share[c] += 1
    return share


def resample_rows(codes: Array, how: str, seed: int) -> Array:
    """Return sorted rows in which all classes are equally frequent.

    "oversample" repeats rows of the rarer classes (every row stays, the rest is drawn without replacement);
    "undersample" drops rows of the more frequent ones.
    """
    draw = generator(seed, purpose="resample")
    groups = [g for g in (np.flatnonzero(codes == c) for c in range(int(codes.max()) + 1)) if len(g)]
    size = max(map(len, groups)) if how == "oversample" else min(map(len, groups))
    rows = []
    for group in groups:
        whole, rest = divmod(size, len(group))
        rows += [group] * whole + [draw.permutation(group)[:rest]]
    return np.sort(np.concatenate(rows)).astype(np.int64)
