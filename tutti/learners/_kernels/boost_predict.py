"""Many trees on many rows: a block of rows takes each tree's steps side by side, without a branch.

A leaf leads to itself, so every row takes as many steps as the tree is deep.  ``nodes`` packs what a step needs besides
the cut: the left child in the upper 32 bits, then the column, then whether missing values go right.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner

BLOCK = 256
LANES = 8


@njit(cache=True, nogil=True)
def pack(offset, feature, left, missing_left, nodes, depth):
    """Fill ``nodes`` (n_nodes,) with absolute children, and ``depth`` (n_trees,)."""
    for t in range(len(offset) - 1):
        lo, hi = offset[t], offset[t + 1]
        level = np.zeros(hi - lo, np.int64)
        for p in range(lo, hi):
            if feature[p] < 0:
                nodes[p] = np.int64(p) << 32
                continue
            child = lo + left[p]
            right = 0 if missing_left[p] else 1
            nodes[p] = (np.int64(child) << 32) | (np.int64(feature[p]) << 1) | right
            level[child - lo] = level[child + 1 - lo] = level[p - lo] + 1  # children have higher numbers
            depth[t] = max(depth[t], level[p - lo] + 1)


@njit(cache=True, nogil=True)
def add_up(left, n_rows, weight):
    """Give every inner node the sums of its children, which have higher numbers."""
    for p in range(len(left) - 1, -1, -1):
        if left[p] >= 0:
            n_rows[p] = n_rows[left[p]] + n_rows[left[p] + 1]
            weight[p] = weight[left[p]] + weight[left[p] + 1]


@njit(inline="always")
def _step(x, i, p, nodes, cuts, sets, set_at):
    """The child of node p for row i; unsigned numbers spare the check for a negative index."""
    word = np.uint64(nodes[p])
    v = x[i, (word >> np.uint64(1)) & np.uint64(0x7FFFFFFF)]
    if len(set_at) > 0 and set_at[p] >= 0:
        c = np.uint64(v) if v == v and v >= 0 else np.uint64(0)
        goes = (sets[np.uint64(set_at[p]), c >> np.uint64(5)] >> np.uint32(c & np.uint64(31))) & np.uint32(1)
        return (word >> np.uint64(32)) + np.uint64(1) - np.uint64(goes)
    right = (v > cuts[p]) | ((v != v) & ((word & np.uint64(1)) != np.uint64(0)))
    return (word >> np.uint64(32)) + np.uint64(right)


@inner()
def leaves_of(x, lo, hi, root, depth, nodes, cuts, sets, set_at, at):
    """at[:hi - lo] = the leaf of one tree that each row lo..hi - 1 falls into."""
    own = x[lo:hi]
    m = np.uint64(hi - lo)
    for i in range(m):
        at[i] = root
    lanes = np.uint64(LANES)
    whole = m // lanes * lanes
    for r in range(np.uint64(0), whole, lanes):
        for _ in range(depth):
            for k in range(lanes):
                at[r + k] = _step(own, r + k, at[r + k], nodes, cuts, sets, set_at)
    for k in range(whole, m):
        for _ in range(depth):
            at[k] = _step(own, k, at[k], nodes, cuts, sets, set_at)


@njit(cache=True, nogil=True)
def add(x, start, stop, first, last, offset, depth, nodes, cuts, sets, set_at, values, f):
    """f[i, t mod K] += the value of trees first..last - 1, for the rows start..stop - 1 of x.

    Parameters
    ----------
    x : (n, d) values; the codes of categorical columns, 0 where missing.   cuts : float64, x <= cut goes left.
    f : (n, K) float64.
    """
    at = np.empty(BLOCK, np.uint64)
    n_outputs = f.shape[1]
    for lo in range(start, stop, BLOCK):
        hi = min(lo + BLOCK, stop)
        for t in range(first, last):
            leaves_of(x, lo, hi, offset[t], depth[t], nodes, cuts, sets, set_at, at)
            k = t % n_outputs
            for i in range(hi - lo):
                f[lo + i, k] += values[at[i]]


@njit(cache=True, nogil=True)
def apply(x, start, stop, offset, depth, nodes, cuts, sets, set_at, out):
    """out[i, t] = the leaf of tree t that row i falls into, as its number within the tree."""
    at = np.empty(BLOCK, np.uint64)
    for lo in range(start, stop, BLOCK):
        hi = min(lo + BLOCK, stop)
        for t in range(len(offset) - 1):
            leaves_of(x, lo, hi, offset[t], depth[t], nodes, cuts, sets, set_at, at)
            for i in range(hi - lo):
                out[lo + i, t] = np.int64(at[i]) - offset[t]


@njit(cache=True, nogil=True)
def add_codes(columns, offset, feature, code, left, missing_left, set_at, sets, values, f):
    """f[t mod K, i] += the value of each tree, for rows given as codes (d, n), tree after tree."""
    for t in range(len(offset) - 1):
        k = t % len(f)
        for i in range(columns.shape[1]):
            p = offset[t]
            while feature[p] >= 0:
                c = columns[feature[p], i]
                if set_at[p] >= 0:
                    goes = (sets[set_at[p], c >> 5] >> np.uint32(c & 31)) & np.uint32(1)
                elif c == 0:
                    goes = np.uint32(missing_left[p])
                else:
                    goes = np.uint32(c <= code[p])
                p = offset[t] + left[p] + 1 - np.int64(goes)
            f[k, i] += values[p]
