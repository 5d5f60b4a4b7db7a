"""Growth that splits the best leaf next, for a bound on the number of leaves."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.keyed import mixed
from tutti.learners._kernels.tree_grow import (
    LEFT,
    N_INTEGERS,
    N_REALS,
    RIGHT,
    add_stats,
    best_split,
    enough,
    may_split,
    part_rows,
    write_node,
    write_split,
)
from tutti.learners._kernels.tree_monotone import child_bounds, into_bounds, split_sign
from tutti.learners._kernels.tree_split import CLASSES, FEATURE
from tutti.learners._kernels.tree_wide import side_score


@inner(error_model="numpy")
def _gain(table, rules, work, place, stats, size, key, monotone):
    """Decrease of the weighted impurity by the best split of a leaf; -inf if it stays one."""
    lo, hi, depth = place[0], place[1], place[2]
    if not may_split(rules, table.target, work.entries, lo, hi, depth, stats):
        return -np.inf
    rs, cs = 1, table.n_rows
    codes, target, weight = table.by_column, table.target, table.weight
    score = best_split(
        table, rules, work, codes, rs, cs, target, weight, work.entries, lo, hi, stats, size, key, monotone
    )
    return score - side_score(rules, stats) if enough(rules, score, stats) else -np.inf


@njit(cache=True, nogil=True, error_model="numpy")
def grow_best(table, rules, work, n_entries, root_key, max_leaves, monotone):
    """Grow a tree of at most ``max_leaves`` leaves, always at the leaf whose split gains most (the first of equals).

    A leaf's split is found when the leaf is made, for its gain, and again when it is its turn.
    """
    k = rules.n_outputs
    size = 1 + k if rules.kind == CLASSES else 2 + k
    width = size + (0 if rules.kind == CLASSES else 1)
    most = 2 * min(max_leaves, n_entries) + 1
    ints, reals, values = np.empty((most, N_INTEGERS), np.int32), np.empty((most, N_REALS)), np.empty((most, k))
    sets, n_sets = np.empty((0, 8), np.uint32), np.int64(0)
    places, keys, sums, gains = (
        np.zeros((most, 3), np.int64),
        np.empty(most, np.uint64),
        np.zeros((most, width), np.int64),
        np.empty(most),
    )
    add_stats(rules, table.target, table.square, table.weight, work.entries, np.int64(0), n_entries, sums[0])
    places[0, 1], keys[0] = n_entries, root_key
    write_node(rules, sums[0], np.int64(0), ints, reals, values)
    if monotone is not None:
        limits = np.empty((most, 2))
        limits[0, 0], limits[0, 1] = monotone.bounds[0], monotone.bounds[1]
    gains[0] = _gain(table, rules, work, places[0], sums[0], size, keys[0], monotone)
    n_nodes, n_leaves = 1, 1
    while n_leaves < max_leaves:
        node = int(np.argmax(gains[:n_nodes]))
        if gains[node] == -np.inf:
            break
        if monotone is not None:
            monotone.bounds[0], monotone.bounds[1] = limits[node, 0], limits[node, 1]
        _gain(table, rules, work, places[node], sums[node], size, keys[node], monotone)
        gains[node] = -np.inf
        lo, hi = places[node, 0], places[node, 1]
        sets, n_sets = write_split(table, work, node, ints, reals, sets, n_sets)
        offset = work.found[FEATURE] * table.n_rows
        mid = part_rows(work, table.by_column, 1, offset, work.entries, lo, hi, ints[node], sets)
        a, b = n_nodes, n_nodes + 1
        ints[node, LEFT], ints[node, RIGHT] = a, b
        for q in range(width):
            sums[a, q] = 0
        add_stats(rules, table.target, table.square, table.weight, work.entries, lo, mid, sums[a])
        for q in range(width):
            sums[b, q] = sums[node, q] - sums[a, q]
        places[a, 0], places[a, 1], places[a, 2] = lo, mid, places[node, 2] + 1
        places[b, 0], places[b, 1], places[b, 2] = mid, hi, places[node, 2] + 1
        if monotone is not None:
            sign, middle = split_sign(work.found, monotone), monotone.bounds[2]
        for side in range(2):
            child = a + side
            keys[child] = mixed(keys[node] + np.uint64(1 + side))
            write_node(rules, sums[child], child, ints, reals, values)
            if monotone is not None:
                low, high = child_bounds(sign, limits[node, 0], limits[node, 1], middle, side)
                limits[child, 0] = monotone.bounds[0] = low
                limits[child, 1] = monotone.bounds[1] = high
                into_bounds(rules, values[child], low, high)
            gains[child] = _gain(table, rules, work, places[child], sums[child], size, keys[child], monotone)
        n_nodes += 2
        n_leaves += 1
    return _depth_first(ints[:n_nodes], reals[:n_nodes], values[:n_nodes], sets[:n_sets].copy())


@njit(cache=True, nogil=True)
def _depth_first(ints, reals, values, sets):
    """Number the nodes anew: the left child behind its parent, as trees are laid out."""
    n = len(ints)
    order, number, stack = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int64)
    stack[0] = 0
    top, m = 1, 0
    while top > 0:
        top -= 1
        node = stack[top]
        order[m], number[node] = node, m
        m += 1
        if ints[node, FEATURE] >= 0:
            stack[top], stack[top + 1] = ints[node, RIGHT], ints[node, LEFT]
            top += 2
    i, r, v = ints[order], reals[order], values[order]
    for node in range(n):
        i[node, LEFT], i[node, RIGHT] = number[i[node, LEFT]], number[i[node, RIGHT]]
    return i, r, v, sets
