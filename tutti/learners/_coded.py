"""Trees in the form that rows without missing values and categories are sent down in: by codes, see `tree_coded`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tutti.types import Array

_CACHE = 1 << 17
"""Bytes of codes that go down a tree together: they stay in a core's cache beside the tree."""
_MOST = 1 << 20
"""Most bytes of codes and sums that go down a large tree together: as many as it has itself, for each row of the group
that comes after another finds more of the tree in the cache."""


class Coded:
    """The nodes of trees by codes, for rows of one type; ``cut`` of inner nodes in that type.

    `made` says if there is such a form.
    """

    def __init__(self, trees: Any, cut: Array, threads: int = 1) -> None:
        from tutti.learners._kernels import tree_coded

        self.made = False
        d, sizes = int(trees.feature.max(initial=-1)) + 1, np.diff(trees.offset)
        width, most = 256, int(sizes.max(initial=0))
        if d == 0 or most >= 1 << 24:
            return
        tables, n_cuts = np.full((d, width), np.inf, cut.dtype), np.zeros(d, np.int64)
        if not tree_coded.distinct_cuts(trees.feature, cut, tables, n_cuts):
            width, n_cuts = 4096, np.zeros(d, np.int64)
            tables = np.full((d, width), np.inf, cut.dtype)
            if not tree_coded.distinct_cuts(trees.feature, cut, tables, n_cuts):
                return
        columns = np.flatnonzero(n_cuts)
        narrow = width == 256 and len(columns) <= 256 and most <= 1 << 16
        bits = np.array([8, 24] if narrow else [16, 40])
        self._code = np.dtype(np.uint8 if narrow else np.uint16)
        self._wide = None if narrow else 1
        column = np.cumsum(n_cuts > 0) - 1
        n, n_trees, n_top = len(trees.feature), trees.n_trees, tree_coded.N_TOP
        nodes, place = np.empty(n, np.uint32 if narrow else np.uint64), np.empty(n, np.int32)
        levels = np.zeros(n_trees, np.int64)
        depth = trees.depths()
        values, origin = self._room_for_values(trees)
        lay_out: Any = tree_coded.lay_out
        groups = list(trees.groups())

        def part(g: int) -> None:
            first, some = groups[g]
            mine = slice(first, first + some.n_trees)
            offset, inner = trees.offset[first : mine.stop + 1], int(trees.inner_offset[first])
            lay_out(offset, trees.feature, cut, inner, depth, tables, n_cuts, column, bits, nodes, place, levels[mine])
            self._put_values(some, offset, place, values, origin)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, range(len(groups))))
        starts, cuts = np.zeros((n_trees, n_top), np.int64), np.zeros((n_trees, n_top), self._code)
        exits = np.zeros((n_trees, n_top + 1), np.int32)
        tree_coded.heap_of(trees.offset, nodes, bits, starts, cuts, exits)
        self._rows = (columns, np.ascontiguousarray(tables[columns]))
        self._trees = (trees.offset, levels, nodes, starts, cuts, exits, values, origin)
        self._room, codes = tree_coded.GROUP * len(columns), self._code.itemsize * len(columns) * tree_coded.GROUP
        sums, tree = 8 * trees.n_outputs * tree_coded.GROUP, (nodes.nbytes + values.nbytes) // n_trees
        self._groups = max(1, min(8, _CACHE // codes), min(64, min(tree, _MOST) // (codes + sums)))
        self.made = True

    @staticmethod
    def _room_for_values(trees: Any) -> tuple[Array, Array]:
        """Return room for values where nodes lie, or long values where they were and room for their numbers."""
        if trees.n_outputs > 2:
            return np.ascontiguousarray(trees.value), np.empty(len(trees.feature), np.int32)
        return np.empty((len(trees.feature), trees.n_outputs)), np.empty(0, np.int32)

    @staticmethod
    def _put_values(some: Any, offset: Array, place: Array, values: Array, origin: Array) -> None:
        """Take the values of some trees, or the numbers of their nodes, to where their nodes lie."""
        start = np.repeat(offset[:-1], np.diff(offset))
        at = place[offset[0] : offset[-1]] + start
        if len(origin):
            origin[at] = np.arange(offset[0], offset[-1]) - start
        else:
            values[at] = some.value

    def add(self, x: Array, lo: int, hi: int, out: Array) -> None:
        """Add the values of the leaves of rows lo..hi to out (n, n_outputs), in the order of the trees."""
        from tutti.learners._kernels.tree_coded import GROUP, add_coded

        add: Any = add_coded
        codes = np.zeros(min(self._groups, -(-(hi - lo) // GROUP)) * self._room, self._code)
        add(x, lo, hi, *self._rows, *self._trees, codes, self._wide, out)
