"""Trees in the form that rows without missing values and categories are sent down in: by codes, see `tree_coded`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutti.types import Array

_CACHE = 1 << 17
"""Bytes of codes that go down a tree together: they stay in a core's cache beside the tree."""


class Coded:
    """The nodes of trees by codes, for rows of one type; ``cut`` of inner nodes in that type.

    `made` says if there is such a form.
    """

    def __init__(self, trees: Any, cut: Array) -> None:
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
        tree_coded.lay_out(trees.offset, trees.feature, cut, depth, tables, n_cuts, column, bits, nodes, place, levels)
        starts, cuts = np.zeros((n_trees, n_top), np.int64), np.zeros((n_trees, n_top), self._code)
        exits = np.zeros((n_trees, n_top + 1), np.int32)
        tree_coded.heap_of(trees.offset, nodes, bits, starts, cuts, exits)
        values, origin = self._values(trees, place)
        self._rows = (columns, np.ascontiguousarray(tables[columns]))
        self._trees = (trees.offset, levels, nodes, starts, cuts, exits, values, origin)
        self._groups = max(1, min(8, _CACHE // (self._code.itemsize * len(columns) * tree_coded.GROUP)))
        self._room = tree_coded.GROUP * len(columns)
        self.made = True

    @staticmethod
    def _values(trees: Any, place: Array) -> tuple[Array, Array]:
        """Return values where nodes lie, or where they were and the number of each node there if they are long."""
        start = trees.offset[:-1]
        if trees.n_outputs > 2:
            start, origin = np.repeat(start, np.diff(trees.offset)), np.empty(len(place), np.int32)
            origin[start + place] = np.arange(len(place)) - start
            return np.ascontiguousarray(trees.value), origin
        values = np.empty((len(place), trees.n_outputs))
        for first, some in trees.groups():
            lo = start[first]
            here = slice(lo, lo + len(some.feature))
            values[place[here] + np.repeat(some.offset[:-1] + lo, np.diff(some.offset))] = some.value
        return values, np.empty(0, np.int32)

    def add(self, x: Array, lo: int, hi: int, out: Array) -> None:
        """Add the values of the leaves of rows lo..hi to out (n, n_outputs), in the order of the trees."""
        from tutti.learners._kernels.tree_coded import GROUP, add_coded

        add: Any = add_coded
        codes = np.zeros(min(self._groups, -(-(hi - lo) // GROUP)) * self._room, self._code)
        add(x, lo, hi, *self._rows, *self._trees, codes, self._wide, out)
