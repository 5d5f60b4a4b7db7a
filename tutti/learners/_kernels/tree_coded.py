"""Rows as codes down many trees: six levels of a tree for many rows at once, the others for eight rows side by side.

A code is the number of cuts of the forest below a value, so code <= code of the cut where value <= cut.  The codes of a
group of rows lie column by column.  Nodes of a tree lie level by level, children side by side: the right one is the
left one plus the outcome of the comparison, without a branch.  A word of a node is cut, left child and column, in 8, 16
and 8 bits, or ``wide``: 16, 24 and 24.  A leaf is its own left child and no code is above its cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.bins import position
from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.lanes import LANES, search

GROUP = 512
TOP = 6
N_TOP = (1 << TOP) - 1
U = np.uint64


@njit(cache=True, nogil=True)
def distinct_cuts(feature, cut, tables, n_cuts):
    """Collect the cuts of each feature, rising, in tables[feature]; False if one has more than there is room for.

    ``feature`` is of all nodes, -1 for leaves, ``cut`` of the inner ones.
    """
    inner = -1
    for p in range(len(feature)):
        f = feature[p]
        if f < 0:
            continue
        inner += 1
        own = tables[f]
        at = position(own, n_cuts[f], cut[inner])
        if at < n_cuts[f] and own[at] == cut[inner]:
            continue
        if n_cuts[f] == len(own) - 1:
            return False
        for q in range(n_cuts[f], at, -1):
            own[q] = own[q - 1]
        own[at] = cut[inner]
        n_cuts[f] += 1
    return True


@inner()
def _levels_first(depth, first, place):
    """place[p] = number of node p where nodes lie level by level; returns the depth of the tree."""
    for q in range(len(first)):
        first[q] = 0
    for p in range(len(depth)):
        first[depth[p] + 1] += 1
    for q in range(1, len(first)):
        first[q] += first[q - 1]
    deepest = 0
    for p in range(len(depth)):
        place[p] = first[depth[p]]
        first[depth[p]] += 1
        deepest = max(deepest, depth[p])
    return deepest


@njit(cache=True, nogil=True)
def lay_out(offset, feature, cut, inner, depth, tables, n_cuts, column, bits, nodes, place, levels):
    """Write the words of the nodes of some trees and their places; ``bits``: where in a word child and column begin.

    ``offset`` and ``levels`` are of these trees, all else is of all nodes; ``cut`` is that of the inner nodes, in their
    order, of which ``inner`` come before these trees.
    """
    deepest = 0
    for p in range(offset[0], offset[-1]):
        deepest = max(deepest, depth[p])
    first = np.zeros(deepest + 2, np.int64)
    for t in range(len(offset) - 1):
        lo, hi = offset[t], offset[t + 1]
        levels[t] = _levels_first(depth[lo:hi], first, place[lo:hi])
        for p in range(lo, hi):
            f = feature[p]
            if f < 0:
                word = ((np.int64(1) << bits[0]) - 1) | (np.int64(place[p]) << bits[0])
            else:
                code = position(tables[f], n_cuts[f], cut[inner])
                inner += 1
                word = code | (np.int64(place[p + 1]) << bits[0]) | (np.int64(column[f]) << bits[1])
            nodes[lo + place[p]] = word


@njit(cache=True, nogil=True)
def heap_of(offset, nodes, bits, starts, cuts, exits):
    """Lay the upper levels of each tree out as a heap: where its column begins, its cut; and the nodes below it."""
    at = np.empty(2 * N_TOP + 1, np.int64)
    for t in range(len(offset) - 1):
        at[0] = 0
        for h in range(N_TOP):
            word = np.int64(nodes[offset[t] + at[h]])
            left = (word >> bits[0]) & ((np.int64(1) << (bits[1] - bits[0])) - 1)
            starts[t, h], cuts[t, h] = GROUP * (word >> bits[1]), word & ((np.int64(1) << bits[0]) - 1)
            at[2 * h + 1], at[2 * h + 2] = left, left + (1 if left != at[h] else 0)  # nothing goes right of a leaf
        for h in range(N_TOP + 1):
            exits[t, h] = at[N_TOP + h]


@inner()
def _encode(x, lo, n, columns, tables, codes, buffer):
    """codes[GROUP * j + i] = cuts of columns[j] below its value in row lo + i."""
    for j in range(len(columns)):
        for i in range(n):
            buffer[i] = x[lo + i, columns[j]]
        own = tables[j]
        for i in range(0, n, LANES):
            search(own, buffer, i, codes, GROUP * j + i)


@inner()
def _two_levels(x, c, x_left, c_left, x_right, c_right, out):
    """out = 0..3, which of the four exits of a node and its children each row takes."""
    for i in range(len(out)):
        v, left, right = x[i], np.uint8(x_left[i] > c_left), np.uint8(x_right[i] > c_right)
        out[i] = (right | np.uint8(2)) if v > c else left


@inner()
def _one_level(x, c, left, right, bit, out):
    for i in range(len(out)):
        a, b = left[i], right[i] | bit
        out[i] = b if x[i] > c else a


@inner()
def _top(codes, m, starts, cuts, q):
    """q[:m] = which of the exits of the heap each of the first m rows takes; q has room for GROUP rows of 31 nodes."""
    for h in range(15, 31):
        a, b, c = starts[h], starts[2 * h + 1], starts[2 * h + 2]
        x, left, right = codes[a : a + m], codes[b : b + m], codes[c : c + m]
        _two_levels(x, cuts[h], left, cuts[2 * h + 1], right, cuts[2 * h + 2], q[GROUP * h : GROUP * h + m])
    bit = np.uint8(4)
    for h in range(14, -1, -1):
        if h == 6 or h == 2 or h == 0:
            bit = np.uint8(bit << 1)
        a, left = starts[h], GROUP * (2 * h + 1)
        right = left + GROUP
        _one_level(
            codes[a : a + m], cuts[h], q[left : left + m], q[right : right + m], bit, q[GROUP * h : GROUP * h + m]
        )


@njit(cache=True, nogil=True)
def _step(nodes, codes, node, r, wide):
    """The child of a node for row r."""
    w = U(nodes[node])
    if wide is None:
        return ((w >> U(8)) & U(0xFFFF)) + U(codes[((w >> U(15)) & U(0x1FE00)) + r] > (w & U(0xFF)))
    return ((w >> U(16)) & U(0xFFFFFF)) + U(codes[((w >> U(31)) & U(0x1FFFFFE00)) + r] > (w & U(0xFFFF)))


@inner()
def _walk(nodes, codes, n, levels, taken, exits, at, wide):
    """at[:n] = the leaf of each row from its exit on; eight rows at a time, so that their loads overlap."""
    for r in range(U(0), U(n), U(8)):
        r1, r2, r3, r4, r5, r6, r7 = r + U(1), r + U(2), r + U(3), r + U(4), r + U(5), r + U(6), r + U(7)
        a, b, c, d = U(exits[taken[r]]), U(exits[taken[r1]]), U(exits[taken[r2]]), U(exits[taken[r3]])
        e, f, g, h = U(exits[taken[r4]]), U(exits[taken[r5]]), U(exits[taken[r6]]), U(exits[taken[r7]])
        left = levels
        while left > 0:
            a1, b1 = _step(nodes, codes, a, r, wide), _step(nodes, codes, b, r1, wide)
            c1, d1 = _step(nodes, codes, c, r2, wide), _step(nodes, codes, d, r3, wide)
            e1, f1 = _step(nodes, codes, e, r4, wide), _step(nodes, codes, f, r5, wide)
            g1, h1 = _step(nodes, codes, g, r6, wide), _step(nodes, codes, h, r7, wide)
            left -= 1
            if left > 3:
                moved = (a ^ a1) | (b ^ b1) | (c ^ c1) | (d ^ d1) | (e ^ e1) | (f ^ f1) | (g ^ g1) | (h ^ h1)
                left = left if moved != U(0) else 0
            a, b, c, d, e, f, g, h = a1, b1, c1, d1, e1, f1, g1, h1
        at[r], at[r1], at[r2], at[r3], at[r4], at[r5], at[r6], at[r7] = a, b, c, d, e, f, g, h


@inner()
def _add(values, origin, at, n, first, out):
    """out[first + i] += values of the leaf at[i]; ``origin`` (may be empty): where the values of a node are."""
    k = values.shape[1]
    if k == 1:
        for i in range(n):
            out[first + i, 0] += values[U(at[i]), 0]
    elif k == 2:
        for i in range(n):
            leaf = U(at[i])
            out[first + i, 0] += values[leaf, 0]
            out[first + i, 1] += values[leaf, 1]
    else:
        for i in range(n):
            leaf = U(origin[at[i]])
            for o in range(k):
                out[first + i, o] += values[leaf, o]


@njit(cache=True, nogil=True)
def add_coded(x, lo, hi, columns, tables, offset, levels, nodes, starts, cuts, exits, values, origin, codes, wide, out):
    """out[i] += value of the leaf of row i in each tree, in the order of the trees, for rows lo..hi of x.

    Some groups of rows, as many as ``codes`` has room for, go down a tree before it is the next tree's turn: a deep
    tree is read once for all of them.
    """
    size = GROUP * len(columns)
    n_groups, n_leaf = len(codes) // size, min(len(origin), 1)
    q, at = np.zeros(31 * GROUP, np.uint8), np.empty(GROUP, np.uint32)
    buffer = np.zeros(GROUP, x.dtype)
    for first in range(lo, hi, n_groups * GROUP):
        m = min(n_groups, (hi - first + GROUP - 1) // GROUP)
        for b in range(m):
            start = first + b * GROUP
            own_codes = codes[b * size : (b + 1) * size]
            _encode(x, start, min(GROUP, hi - start), columns, tables, own_codes, buffer)
        for t in range(len(offset) - 1):
            here = slice(offset[t], offset[t + 1])
            own, origins = nodes[here], origin[here] if n_leaf else origin
            leaf_values = values[here]
            for b in range(m):
                start = first + b * GROUP
                n, group = min(GROUP, hi - start), codes[b * size : (b + 1) * size]
                _top(group, (n + 31) // 32 * 32, starts[t], cuts[t], q)
                _walk(own, group, n, levels[t] - TOP, q, exits[t], at, wide)
                _add(leaf_values, origins, at, n, start, out)
