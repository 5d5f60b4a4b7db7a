"""What ranks that hold parts of the rows need besides: the order of features, and a judge of summed histograms."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.keyed import below, keyed
from tutti.learners._kernels.tree_wide import _by_target, judge_wide


@njit(cache=True, nogil=True)
def drawn(key, d, n):
    """The first n features in the order in which `tree_grow.best_split` draws them."""
    out = np.arange(d)
    for t in range(n):
        other = t + below(keyed(key, t), d - t)
        out[t], out[other] = out[other], out[t]
    return out[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def judge(table, rules, work, h, size, total, feature, best):
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
    return judge_wide(rules, categorical, h, n, size, total, work.order, work, feature, work.found, best), False
