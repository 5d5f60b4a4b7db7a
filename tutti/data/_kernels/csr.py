"""Checks and gathers over the rows of a CSR matrix."""

from __future__ import annotations

import numba as nb
import numpy as np

CANONICAL, BROKEN, MESSY = 0, 1, 2


@nb.njit(cache=True, nogil=True)
def check(indptr, indices, n_features, lo, hi):
    """Return whether rows lo:hi are sorted without duplicates (0), unusable (1), or need sorting or summing (2)."""
    worst = 0
    for r in range(lo, hi):
        a, b = indptr[r], indptr[r + 1]
        if b < a or a < 0 or b > len(indices):
            return 1
        if a == b:
            continue
        messy = 0
        for k in range(a + 1, b):
            messy |= indices[k] <= indices[k - 1]
        if messy:
            for k in range(a, b):
                if indices[k] < 0 or indices[k] >= n_features:
                    return 1
            worst = 2
        elif indices[a] < 0 or indices[b - 1] >= n_features:
            return 1
    return worst


@nb.njit(cache=True, nogil=True)
def tidy(indptr, indices, values):
    """Return the matrix with every row sorted by index and repeated indices summed (in their stored order)."""
    n = len(indptr) - 1
    ptr = np.zeros(n + 1, np.int64)
    idx = np.empty(len(indices), np.int32)
    val = np.empty(len(values), values.dtype)
    k = 0
    for r in range(n):
        a, b = indptr[r], indptr[r + 1]
        order = np.argsort(indices[a:b], kind="mergesort")
        start = k
        for o in order:
            if k > start and idx[k - 1] == indices[a + o]:
                val[k - 1] += values[a + o]
            else:
                idx[k] = indices[a + o]
                val[k] = values[a + o]
                k += 1
        ptr[r + 1] = k
    return ptr, idx[:k].copy(), val[:k].copy()


@nb.njit(cache=True, nogil=True)
def take(indptr, indices, values, rows):
    """Return (indptr, indices, values) of the given rows."""
    ptr = np.zeros(len(rows) + 1, np.int64)
    for i in range(len(rows)):
        ptr[i + 1] = ptr[i] + indptr[rows[i] + 1] - indptr[rows[i]]
    idx = np.empty(ptr[-1], indices.dtype)
    val = np.empty(ptr[-1], values.dtype)
    for i in range(len(rows)):
        a, k = indptr[rows[i]], ptr[i]
        for j in range(ptr[i + 1] - k):
            idx[k + j] = indices[a + j]
            val[k + j] = values[a + j]
    return ptr, idx, val
