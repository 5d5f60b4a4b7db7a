"""Rows down many trees: a few rows side by side, so that their cache misses overlap; no branch per node.

Nodes of all trees lie one after the other; the left child follows its node.  ``meta`` holds feature (upper 32 bits)
and right child (counted over all trees), ``cut`` the threshold in the type of the rows.  A leaf is its own right child
and its cut is -inf, so a row that has arrived stays.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner

SIDE = 16
BLOCK = 512
U = np.uint64
LOW, HALF = U(0xFFFFFFFF), U(32)


@inner()
def _goes_left(v, node, meta, cut, missing_left, set_at, sets):
    """Where missing values and categories are possible."""
    at = set_at[node]
    if at >= 0:
        code = np.int64(v) if v == v else 0
        return (np.int64(sets[at, code >> 5]) >> (code & 31)) & 1 == 1
    if v != v:
        return missing_left[node] != 0
    return v <= cut[node]


@inner()
def _side_by_side(x, d, first, root, meta, cut, at):
    """Send SIDE rows of the flat x down a tree: each step of each row is the same few instructions, no branch."""
    none, one = U(0), U(1)
    base = U(first) * U(d)
    for r in range(SIDE):
        at[r] = root
    moved = True
    while moved:
        changed = none
        start = base
        for r in range(SIDE):
            node = at[r]
            m = meta[node]
            left = none - (one if x[start + (m >> HALF)] <= cut[node] else none)  # all bits, or none
            right = m & LOW
            follow = right ^ ((right ^ (node + one)) & left)
            changed |= follow ^ node
            at[r] = follow
            start += U(d)
        moved = changed != none


@njit(cache=True, nogil=True)
def leaves(x, d, lo, hi, root, meta, cut, missing_left, set_at, sets, plain, at, out):
    """out[i - lo] = leaf of row i of x in the tree at ``root``; ``plain``: no value is missing or a category.

    x is flat, rows of d values; ``at`` (SIDE,) uint64 is scratch.
    """
    for first in range(lo, hi, SIDE):
        n = min(SIDE, hi - first)
        if plain and n == SIDE:
            _side_by_side(x, d, first, U(root), meta, cut, at)
        else:
            for r in range(n):
                node = U(root)
                while meta[node] & LOW != node:
                    m = meta[node]
                    v = x[U(first + r) * U(d) + (m >> HALF)]
                    left = _goes_left(v, node, meta, cut, missing_left, set_at, sets)
                    node = node + U(1) if left else m & LOW
                at[r] = node
        for r in range(n):
            out[first - lo + r] = at[r]


@njit(cache=True, nogil=True)
def add_values(x, d, lo, hi, roots, meta, cut, missing_left, set_at, sets, plain, values, out):
    """out[i] += value of the leaf of row i in each tree, in the order of the trees, for rows lo..hi."""
    found, at = np.empty(BLOCK, np.int64), np.empty(SIDE, np.uint64)
    k = values.shape[1]
    for first in range(lo, hi, BLOCK):
        last = min(first + BLOCK, hi)
        for t in range(len(roots)):
            leaves(x, d, first, last, roots[t], meta, cut, missing_left, set_at, sets, plain, at, found)
            if k == 1:
                for i in range(first, last):
                    out[i, 0] += values[found[i - first], 0]
            else:
                for i in range(first, last):
                    for o in range(k):
                        out[i, o] += values[found[i - first], o]


@njit(cache=True, nogil=True)
def apply(x, d, lo, hi, roots, meta, cut, missing_left, set_at, sets, plain, out):
    """out[i, t] = leaf of row i in tree t, counted inside the tree."""
    found, at = np.empty(BLOCK, np.int64), np.empty(SIDE, np.uint64)
    for first in range(lo, hi, BLOCK):
        last = min(first + BLOCK, hi)
        for t in range(len(roots)):
            leaves(x, d, first, last, roots[t], meta, cut, missing_left, set_at, sets, plain, at, found)
            for i in range(first, last):
                out[i, t] = found[i - first] - roots[t]


@njit(cache=True, nogil=True)
def paths(x, roots, meta, cut, missing_left, set_at, sets, indptr, indices):
    """Nodes that each row visits, all trees one after the other; ``indices`` may be empty: only count, in indptr."""
    for i in range(len(x)):
        at = indptr[i]
        for t in range(len(roots)):
            node = U(roots[t])
            while True:
                if len(indices) > 0:
                    indices[at] = node
                at += 1
                right = meta[node] & LOW
                if right == node:
                    break
                v = x[i, meta[node] >> HALF]
                node = node + U(1) if _goes_left(v, node, meta, cut, missing_left, set_at, sets) else right
        if len(indices) == 0:
            indptr[i + 1] = at


@njit(cache=True, nogil=True)
def add_codes(codes, n_rows, rows, feature, left, right, bin_of, missing_left, set_at, sets, values, out):
    """out[r] += value of the leaf of row r for each r in ``rows``; codes (n_features * n_rows,) by column."""
    for a in range(len(rows)):
        row = rows[a]
        node = 0
        while feature[node] >= 0:
            c = np.int64(codes[feature[node] * n_rows + row])
            if set_at[node] >= 0:
                goes_left = (np.int64(sets[set_at[node], c >> 5]) >> (c & 31)) & 1 == 1
            elif c == 0:
                goes_left = missing_left[node] != 0
            else:
                goes_left = c <= bin_of[node]
            node = left[node] if goes_left else right[node]
        for o in range(values.shape[1]):
            out[row, o] += values[node, o]
