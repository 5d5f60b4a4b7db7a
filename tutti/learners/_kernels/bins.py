"""Columns to uint8 codes, and what is needed of each column to choose its cuts."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.keyed import keyed, low_half
from tutti.learners._kernels.lanes import LANES, search

CHUNK = 1024
TABLE = 256
MANY = 256
"""`n_distinct` of a column with more distinct values than codes."""


@njit(cache=True, nogil=True)
def chosen(key, first_row, n_rows, per_2_32, out):
    """Write the rows that belong to the sample into ``out``; return their number.  A row is in with its own bits."""
    m = 0
    for i in range(n_rows):
        if m < len(out) and low_half(keyed(key, first_row + i)) < per_2_32:
            out[m] = i
            m += 1
    return m


@inner()
def position(values, n, v):
    """How many of the first n values, which rise, are below v."""
    lo, hi = 0, n
    while lo < hi:
        middle = (lo + hi) >> 1
        if values[middle] < v:
            lo = middle + 1
        else:
            hi = middle
    return lo


@inner()
def _seen(values, n, x):
    """Insert x into the sorted values[:n]; return the new n, MANY where there is no room."""
    lo = position(values, n, x)
    if lo < n and values[lo] == x:
        return n
    if n == TABLE - 1:
        return MANY
    for k in range(n, lo, -1):
        values[k] = values[k - 1]
    values[lo] = x
    return n + 1


@njit(cache=True, nogil=True)
def distinct_dense(x, used, values, n_distinct):
    """Add the values of each column to values[j, :n_distinct[j]], sorted, but NaN and those of rows not used."""
    n, d = x.shape
    for lo in range(0, n, CHUNK):
        hi = min(lo + CHUNK, n)
        for j in range(d):
            k = n_distinct[j]
            if k == MANY:
                continue
            last = x[lo, j]
            first = True
            for i in range(lo, hi):
                v = x[i, j]
                if (v == last and not first) or (len(used) > 0 and used[i] == 0) or v != v:
                    continue
                k = _seen(values[j], k, v)
                last, first = v, False
                if k == MANY:
                    break
            n_distinct[j] = k


@njit(cache=True, nogil=True)
def distinct_csr(indptr, indices, x, used, values, n_distinct, filled):
    """`distinct_dense` for sparse rows; ``filled`` counts the stored values of used rows of each column."""
    for i in range(len(indptr) - 1):
        if len(used) > 0 and used[i] == 0:
            continue
        for p in range(indptr[i], indptr[i + 1]):
            j, v = indices[p], x[p]
            filled[j] += 1
            if n_distinct[j] != MANY and v == v:
                n_distinct[j] = _seen(values[j], n_distinct[j], v)


@njit(cache=True, nogil=True)
def sample_csr(indptr, indices, x, rows, at, out):
    """Write the sampled rows as columns at.. of out (d, m), which is zero."""
    for a in range(len(rows)):
        i = rows[a]
        for p in range(indptr[i], indptr[i + 1]):
            out[indices[p], at + a] = x[p]


@njit(cache=True, nogil=True)
def borders(values, weights, n_bins, out):
    """Cut sorted values with whole weights into bins of about equal weight; write the midpoints between bins.

    A bin is closed when it holds its share of what is left; a value that is heavier than a share has a bin of its own.
    Returns the number of cuts.
    """
    total = np.int64(0)
    for k in range(len(weights)):
        total += weights[k]
    n = len(values)
    cuts, held, left = 0, np.int64(0), n_bins
    i = 0
    before = values[0]
    while i < n:
        w = np.int64(0)
        v = values[i]
        while i < n and values[i] == v:
            w += weights[i]
            i += 1
        if left > 1 and held > 0 and w * left >= total and cuts < n_bins - 1:
            out[cuts] = _between(before, v)
            cuts += 1
            total -= held
            held = np.int64(0)
            left -= 1
        held += w
        before = v
        if left > 1 and held * left >= total and i < n:
            out[cuts] = _between(v, values[i])
            cuts += 1
            total -= held
            held = np.int64(0)
            left -= 1
    return cuts


@inner()
def _between(a, b):
    """The middle of two neighbours, below b."""
    middle = 0.5 * np.float64(a) + 0.5 * np.float64(b)
    return np.float64(a) if middle >= b else middle


@njit(cache=True, nogil=True)
def encode_dense(x, tables, codes, start):
    """codes[j, start + i] = 1 + number of cuts of column j below x[i, j]; 0 for NaN.

    tables (d, 256) in the type of x, padded with inf.  Returns the first row that holds an infinite value, or -1.
    """
    n, d = x.shape
    buffer, below = np.zeros(CHUNK, x.dtype), np.empty(CHUNK, np.uint8)
    huge = np.inf
    bad = -1
    for lo in range(0, n, CHUNK):
        m = min(CHUNK, n - lo)
        for j in range(d):
            odd = 0
            for i in range(m):
                v = x[lo + i, j]
                buffer[i] = v
                odd += 1 if abs(v) == huge or v != v else 0
            own, target = tables[j], codes[j]
            for i in range(0, m, LANES):
                search(own, buffer, i, below, i)
            for i in range(m):
                target[start + lo + i] = below[i] + 1
            if odd > 0:
                for i in range(m):
                    if buffer[i] != buffer[i]:
                        target[start + lo + i] = 0
                    elif abs(buffer[i]) == huge and bad < 0:
                        bad = lo + i
    return bad


@inner()
def code_of(v, table):
    """Code of one value: 0 for NaN, else 1 + the number of cuts below it."""
    if v != v:
        return 0
    at, step = 0, TABLE // 2
    while step > 0:
        if table[at + step - 1] < v:
            at += step
        step >>= 1
    return at + 1


@njit(cache=True, nogil=True)
def encode_csr(indptr, indices, x, tables, codes, start):
    """`encode_dense` for sparse rows: what is not stored is the value zero."""
    n = len(indptr) - 1
    for j in range(len(tables)):
        zero = np.uint8(code_of(x.dtype.type(0), tables[j]))
        for i in range(n):
            codes[j, start + i] = zero
    bad = -1
    for i in range(n):
        for p in range(indptr[i], indptr[i + 1]):
            v = x[p]
            codes[indices[p], start + i] = code_of(v, tables[indices[p]])
            if abs(v) == np.inf and bad < 0:
                bad = i
    return bad


@njit(cache=True, nogil=True)
def encode_categories(column, values, codes):
    """codes[i] = 1 + position of column[i] in the sorted values; 0 for NaN and for what is not among them.

    Returns the first row with an unknown category, or -1.
    """
    unknown = -1
    for i in range(len(column)):
        v = column[i]
        if v != v:
            codes[i] = 0
            continue
        lo = position(values, len(values), v)
        if lo < len(values) and values[lo] == v:
            codes[i] = lo + 1
        else:
            codes[i] = 0
            if unknown < 0:
                unknown = i
    return unknown
