"""One tree at a time: two kernels and one sum over all ranks a level, on scratch that is allocated once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutti.counting import Sums
from tutti.errors import PlanError
from tutti.learners._boosting_rows import Rows
from tutti.learners._kernels import boost, boost_groups, boost_split
from tutti.types import Array

_POOL_BYTES = 2 << 30


@dataclass(frozen=True)
class Shape:
    """What bounds a tree and weighs a split; see `tutti.learners.boosting.Boosting`.

    Parameters
    ----------
    counted : True if rows are counted besides, for ``min_samples_leaf`` where hessians do not tell it.
    max_step : the value of a leaf, before the learning rate, is not further from 0.
    together : groups of columns that may meet on a path; "pairwise": any two; empty: all.
    max_features : part of the columns that a node may use, which are drawn.
    """

    max_depth: int | None
    max_leaf_nodes: int | None
    best_first: bool
    l2: float
    min_child_weight: float
    min_samples_leaf: int
    min_gain: float
    columns_per_node: int
    counted: bool
    max_step: float = math.inf
    smooth: float = 10.0
    together: Literal["pairwise"] | tuple[tuple[int, ...], ...] = ()
    max_features: float = 1.0


@dataclass(frozen=True)
class Grown:
    """A tree as it was grown, without its leaves' values.

    Parameters
    ----------
    ints, reals, go : (n_nodes, ...) what the kernels know of each node, see `_kernels.boost`.
    idx : the rows of this rank, by leaf.   leaves : numbers of the leaves.
    """

    ints: Array
    reals: Array
    go: Array
    idx: Array
    leaves: Array


class Grower:
    """Grows trees on the rows of this rank, with the same splits on every rank."""

    def __init__(
        self, rows: Rows, n_bins: Array, categorical: Array, signs: Array, shape: Shape, sums: Sums, n_rows: int
    ) -> None:
        self.rows, self.sums, self.shape = rows, sums, shape
        self.n_bins = n_bins.astype(np.int64)
        self.n_codes = int(n_bins.max()) + 1
        self.categorical, self.signs = categorical.astype(np.uint8), signs.astype(np.int64)
        self.max_depth = math.inf if shape.max_depth is None else shape.max_depth
        leaves = float(n_rows if shape.max_leaf_nodes is None else min(shape.max_leaf_nodes, n_rows))
        whole = 2.0**self.max_depth if self.max_depth < 40 else math.inf
        self.max_leaves = int(min(leaves, whole))
        cells = len(n_bins) * self.n_codes * (2 if shape.counted else 1)
        n_slots = int(min(leaves, whole) if leaves < whole else whole / 2) or 1
        if (pools := (1 if sums.alone else 2)) * n_slots * cells * 8 > _POOL_BYTES:
            raise PlanError(
                f"the histograms of {n_slots:,} nodes with {len(n_bins):,} columns would take "
                f"{pools * n_slots * cells * 8 / 2**30:.1f} GB a worker: lower max_depth or max_leaf_nodes"
            )
        self.own = np.empty((n_slots, cells), np.int64)
        self.all = self.own if sums.alone else np.empty((n_slots, cells), np.int64)
        self.cells, self.n_slots = cells, n_slots
        most = 2 * self.max_leaves
        self.ints, self.reals = np.zeros((most, boost.N_INTS), np.int64), np.zeros((most, boost.N_REALS))
        self.go = np.zeros((most, 256), np.uint8)
        self.state, self.batch = np.zeros(3 + n_slots + 1, np.int64), np.zeros(max(n_slots, 1), np.int64)
        self.idx, self.spare = np.empty(rows.n, np.int32), np.empty(rows.n, np.int32)
        self.room = np.zeros((4, 256))
        self.rules = self._rules()
        self.groups = self._groups(len(n_bins), most)

    def _groups(self, n_columns: int, n_nodes: int) -> boost_groups.Groups | None:
        """Return what kernels know of columns that may meet; None where all may."""
        given = self.shape.together
        if not given:
            return None
        groups = [] if isinstance(given, str) else [np.unique(np.array(g, np.int64)) for g in given]
        at = np.cumsum([0, *map(len, groups)]).astype(np.int64) if groups else np.zeros(0, np.int64)
        members = np.concatenate(groups) if groups else np.zeros(0, np.int64)
        parent, used = np.full(n_nodes, -1, np.int64), np.zeros(n_columns, np.uint8)
        return boost_groups.Groups(at, members, parent, used, self.shape.max_features)

    def _rules(self) -> Array:
        s, at = self.shape, boost_split
        rules = np.zeros(at.N_RULES)
        rules[at.L2], rules[at.LEAST_HESSIAN], rules[at.LEAST_GAIN] = s.l2, s.min_child_weight, s.min_gain
        rules[at.LEAST_ROWS] = s.min_samples_leaf if s.counted else 0
        rules[at.MAX_DEPTH], rules[at.MAX_LEAVES] = self.max_depth, self.max_leaves
        rules[at.BEST_FIRST], rules[at.SMOOTH] = s.best_first, s.smooth
        return rules

    def grow(self, train: Array, gh: Array, scales: tuple[float, float], key: int) -> Grown:
        """Grow a tree on the rows ``train`` of this rank.

        Parameters
        ----------
        gh : (n,) gradient and hessian of each row, see `_kernels.boost`.   scales : what one unit of each is worth.
        key : of the random numbers of this tree.
        """
        rows, shape, counted = self.rows, self.shape, self.shape.counted
        idx = self.idx[: len(train)]
        idx[:] = train
        scale, wanted = np.array(scales), shape.columns_per_node
        boost.root(rows.codes, self.n_codes, idx, gh, self.ints, self.reals, self.state, self.own, counted,
                   shape.max_step)  # fmt: skip
        if not self.sums.alone:
            self.all[0] = self.sums.total(self.own[0])
        n = self._decide(0, scale, wanted, key)
        while n:
            last = bool((self.ints[self.batch[:n], boost.DEPTH] + 1 >= self.max_depth).all())
            self._advance(n, idx, gh, last)
            if last:
                n = boost_split.choose(self.batch, self.ints, self.reals, self.state, self.rules)
            else:
                n = self._decide(n, scale, wanted, key)
        n_nodes = int(self.state[boost.N_NODES])
        leaves = np.flatnonzero(self.ints[:n_nodes, boost.LEFT] < 0)
        return Grown(self.ints[:n_nodes], self.reals[:n_nodes], self.go[:n_nodes], idx, leaves)

    def _decide(self, n: int, scale: Array, wanted: int, key: int) -> int:
        found: int = boost_split.decide(
            self.batch, n, self.all, self.n_codes, self.n_bins, self.categorical, self.signs, wanted, np.uint64(key),
            self.ints, self.reals, self.state, scale, self.rules, self.go, self.room, self.groups,
        )  # fmt: skip
        return found

    def _advance(self, n: int, idx: Array, gh: Array, last: bool) -> None:
        rows = self.rows
        talks = not (last or self.sums.alone)
        out = self._outgoing(n) if talks else self.own[:0]
        boost.advance(
            self.batch, n, rows.columns, rows.codes, self.n_codes, idx, self.spare, gh, self.ints, self.reals,
            self.state, self.go, self.own, out, self.shape.counted, last,
        )  # fmt: skip
        if talks:
            total = self.sums.total(out.reshape(-1)).reshape(out.shape)
            boost.take(self.batch, n, total, self.ints, self.all)

    def _outgoing(self, n: int) -> Array:
        """Room for the histograms of n nodes, rounded up so that few sizes occur."""
        room = 1 << (n - 1).bit_length()
        out = self.sums.room(room * self.cells).reshape(room, self.cells)
        out[n:] = 0
        return out
