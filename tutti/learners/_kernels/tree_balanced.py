"""A bootstrap of as many rows of each class: the j-th draw of a class is a rank among its rows, by keyed bits."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.keyed import below, keyed


@njit(cache=True, nogil=True)
def times_balanced(key, sizes, each, label, starts, out):
    """out[i] = how often row i is drawn where each class is drawn from ``each`` times, with replacement.

    label (n,) are the classes of neighbouring rows, starts (n_classes,) how many rows of each class are before them,
    sizes (n_classes,) how many there are in all.
    """
    k = len(sizes)
    at, own = np.zeros(k + 1, np.int64), np.zeros(k, np.int64)
    for i in range(len(label)):
        own[label[i]] += 1
    for c in range(k):
        at[c + 1] = at[c] + own[c]
    times = np.zeros(len(label), np.uint16)
    for c in range(k):
        if own[c] == 0:
            continue
        for j in range(each):
            rank = below(keyed(key, (np.int64(c) << 40) + j), sizes[c]) - starts[c]
            if 0 <= rank < own[c]:
                times[at[c] + rank] += 1
    for i in range(len(label)):
        c = label[i]
        out[i] = times[at[c]]
        at[c] += 1


@njit(cache=True, nogil=True)
def entries_of(label, weight, times, entries):
    """Write the entries of the rows that are drawn and weigh something; return their number."""
    m = 0
    for row in range(len(label)):
        entries[m] = row | (np.int64(times[row]) << 32) | (np.int64(label[row]) << 48)
        m += 1 if (times[row] > 0 and (len(weight) == 0 or weight[row] > 0)) else 0
    return m
