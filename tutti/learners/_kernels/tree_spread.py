"""What ranks that hold parts of the rows need besides: the order of features, a judge of summed histograms, and the
steps of `tree_grow.grow` one by one, as functions that Python may call (the steps themselves are `inner`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels import tree_grow, tree_monotone
from tutti.learners._kernels.keyed import below, keyed, mixed
from tutti.learners._kernels.tree_wide import _by_target, _count, judge_wide, weight_of

_add, _enough, _write_node, _write_split = (
    tree_grow.add_stats,
    tree_grow.enough,
    tree_grow.write_node,
    tree_grow.write_split,
)
_part, _part_set, _set_of = tree_grow.partition, tree_grow.partition_set, tree_grow._set_of
_into_bounds, _child_bounds, _split_sign = (
    tree_monotone.into_bounds,
    tree_monotone.child_bounds,
    tree_monotone.split_sign,
)


@njit(cache=True, nogil=True)
def drawn(key, d, n):
    """The first n features in the order in which `tree_grow.best_split` draws them."""
    out = np.arange(d)
    for t in range(n):
        other = t + below(keyed(key, t), d - t)
        out[t], out[other] = out[other], out[t]
    return out[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def judge(table, rules, work, h, size, total, feature, best, monotone):
    """`tree_wide.scan_wide` of a histogram that is counted already: (best score, constant)."""
    n = 0
    for b in range(1, 256):
        if h[b * size] != 0:
            work.order[n] = b
            n += 1
    if n + (1 if h[0] != 0 else 0) < 2:
        return best, True
    categorical = table.categorical[feature] != 0
    if categorical:
        _by_target(rules, h, size, total, work.order, n, work.share)
    found = judge_wide(rules, categorical, h, n, size, total, work.order, work, feature, work.found, best, monotone)
    return found, False


@njit(cache=True, nogil=True)
def add_stats(rules, target, square, weight, entries, lo, hi, stats):
    """See `tree_grow.add_stats`."""
    return _add(rules, target, square, weight, entries, lo, hi, stats)


@njit(cache=True, nogil=True)
def enough(rules, score, stats):
    """See `tree_grow.enough`."""
    return _enough(rules, score, stats)


@njit(cache=True, nogil=True)
def write_node(rules, stats, node, ints, reals, values):
    """See `tree_grow.write_node`."""
    return _write_node(rules, stats, node, ints, reals, values)


@njit(cache=True, nogil=True)
def into_bounds(rules, value, low, high):
    """See `tree_monotone.into_bounds`."""
    return _into_bounds(rules, value, low, high)


@njit(cache=True, nogil=True)
def split_sign(found, monotone):
    """See `tree_monotone.split_sign`."""
    return _split_sign(found, monotone)


@njit(cache=True, nogil=True)
def child_bounds(sign, low, high, middle, side):
    """See `tree_monotone.child_bounds`."""
    return _child_bounds(sign, low, high, middle, side)


@njit(cache=True, nogil=True)
def write_split(table, work, node, ints, reals, sets, n_sets):
    """See `tree_grow.write_split`."""
    return _write_split(table, work, node, ints, reals, sets, n_sets)


@njit(cache=True, nogil=True)
def partition(codes, rs, offset, cut, missing_left, entries, lo, hi, spare):
    """See `tree_grow.partition`."""
    return _part(codes, rs, offset, cut, missing_left, entries, lo, hi, spare)


@njit(cache=True, nogil=True)
def partition_set(codes, rs, offset, words, entries, lo, hi, spare):
    """See `tree_grow.partition_set`."""
    return _part_set(codes, rs, offset, words, entries, lo, hi, spare)


@njit(cache=True, nogil=True)
def set_of(order, n_left, n_order, missing_left, words):
    """See `tree_grow._set_of`."""
    return _set_of(order, n_left, n_order, missing_left, words)


@njit(cache=True, nogil=True)
def count(label, target, weight, codes, rs, offset, entries, lo, hi, rules, h, size):
    """See `tree_wide._count`."""
    return _count(label, target, weight, codes, rs, offset, entries, lo, hi, rules, h, size)


@njit(cache=True, nogil=True)
def weight(rules, stats):
    """See `tree_wide.weight_of`."""
    return weight_of(rules, stats)


@njit(cache=True, nogil=True)
def child_key(key, side):
    """Key of a child, from that of its parent."""
    return mixed(key + side)
