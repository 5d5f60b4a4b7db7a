"""Trees as a whole: depths, importances, cost-complexity pruning."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def depths(offset, inner_right, feature, out):
    """out = depth of each node; children come behind their parent, the left one at once."""
    inner = 0
    for t in range(len(offset) - 1):
        first = offset[t]
        for node in range(first, offset[t + 1]):
            if feature[node] >= 0:
                out[node + 1] = out[node] + 1
                out[first + inner_right[inner]] = out[node] + 1
                inner += 1


@njit(cache=True, nogil=True)
def importances(offset, left, right, feature, weight, impurity, out):
    """out[t, j] = share of tree t's decrease of the weighted impurity that is due to splits on feature j."""
    for t in range(len(offset) - 1):
        first, total = offset[t], 0.0
        for node in range(first, offset[t + 1]):
            if feature[node] >= 0:
                a, b = first + left[node], first + right[node]
                gain = weight[node] * impurity[node] - weight[a] * impurity[a] - weight[b] * impurity[b]
                out[t, feature[node]] += gain
                total += gain
        if total > 0.0:
            for j in range(out.shape[1]):
                out[t, j] /= total


@njit(cache=True, nogil=True)
def pruned(left, right, feature, risk, alpha, keep):
    """Cost-complexity pruning of one tree: cut the weakest link, as long as it is weaker than alpha.

    risk : (n,) share of the weight times impurity of each node.  keep[node] = 1 for nodes that stay; returns nothing.
    The effective alpha of a node is (risk - risk of its leaves) / (leaves - 1); a link goes while that is <= alpha.
    """
    n = len(feature)
    cut = np.zeros(n, np.uint8)
    below, leaves = np.empty(n), np.empty(n, np.int64)
    while True:
        for node in range(n - 1, -1, -1):
            if feature[node] < 0 or cut[node]:
                below[node], leaves[node] = risk[node], 1
            else:
                below[node] = below[left[node]] + below[right[node]]
                leaves[node] = leaves[left[node]] + leaves[right[node]]
        keep[:] = 0
        keep[0] = 1
        weakest, at = np.inf, -1
        for node in range(n):
            if keep[node] and feature[node] >= 0 and not cut[node]:
                keep[left[node]] = keep[right[node]] = 1
                effective = (risk[node] - below[node]) / (leaves[node] - 1)
                if effective < weakest:
                    weakest, at = effective, node
        if at < 0 or weakest > alpha:
            return
        cut[at] = 1


@njit(cache=True, nogil=True)
def compact(ints, reals, values, keep):
    """Return the nodes that stay, in their order; a node whose children went is a leaf."""
    n = len(ints)
    number = np.full(n, -1, np.int32)
    m = 0
    for node in range(n):
        if keep[node]:
            number[node] = m
            m += 1
    i, r, v = np.empty((m, ints.shape[1]), ints.dtype), np.empty((m, reals.shape[1])), np.empty((m, values.shape[1]))
    for node in range(n):
        to = number[node]
        if to < 0:
            continue
        i[to], r[to], v[to] = ints[node], reals[node], values[node]
        if ints[node, 0] >= 0 and keep[ints[node, 1]]:
            i[to, 1], i[to, 2] = number[ints[node, 1]], number[ints[node, 2]]
        else:
            i[to, 0], i[to, 1], i[to, 2], i[to, 5] = -1, to, to, -1
            r[to, 0] = 0.0
    return i, r, v
