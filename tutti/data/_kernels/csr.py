"""Checks and gathers over the rows of a CSR matrix."""

from __future__ import annotations

import numba as nb
import numpy as np

CANONICAL, BROKEN, MESSY = 0, 1, 2


@nb.njit(cache=True, nogil=True)
def _falls(indices, n):
    """Count the places where an index is not larger than the one before; rows are ignored, so that this vectorises."""
    count = 0
    for k in range(1, n):
        count += indices[k] <= indices[k - 1]
    return count


@nb.njit(cache=True, nogil=True)
def check(indptr, indices, n_features):
    """Return whether the rows are sorted without duplicates (0), unusable (1), or need sorting or summing (2).

    Every fall between two indices of sorted rows lies where a row begins: their numbers are compared.
    """
    n = indptr[-1]
    if indptr[0] != 0 or n > len(indices):
        return 1
    at_rows = 0
    inside = True
    for r in range(len(indptr) - 1):
        a, b = indptr[r], indptr[r + 1]
        if b < a or b > n:
            return 1
        if b > a:
            inside &= indices[a] >= 0 and indices[b - 1] < n_features
            if a > 0:
                at_rows += indices[a] <= indices[a - 1]
    if _falls(indices, n) == at_rows:
        return 0 if inside else 1
    for k in range(n):
        if indices[k] < 0 or indices[k] >= n_features:
            return 1
    return 2


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
