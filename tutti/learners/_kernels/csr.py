"""Sparse rows: the counterparts of `dense`, with the same meaning of every argument.

A block is (indptr, indices, values); ``indptr`` may be a slice of a longer one, its offsets stay absolute.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.links import FAST, ROW, link, targets


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def csr_pass(indptr, indices, values, y, table, sample, w, b, code, widths, starts, size, v, sums, curvature):
    """Add one output's gradient and sums over the chunks; return the sum of all margins.  See `dense.dense_pass`."""
    real = w.dtype.type
    n = len(indptr) - 1
    room = np.empty((6, ROW), w.dtype)
    z, k, r, e, sign, c = room[0], room[1], room[2], room[3], room[4], room[5]
    everything, at = 0.0, 0
    for t in range(len(starts)):
        lo = starts[t]
        m = min(size, n - lo)
        total = real(0)
        for i in range(m):
            s = real(0)
            for p in range(indptr[lo + i], indptr[lo + i + 1]):
                s += values[p] * w[indices[p]]
            z[i] = s + b
            total += z[i]
        everything += total
        targets(y, lo, m, 1, table, sample, sign, c)
        link(code, z, sign, c, k, r, e, widths[0], widths[1], m, sums)
        if len(curvature) > 0:
            for i in range(m):
                curvature[at + i] = r[i]
        at += m
        for i in range(m):
            f = k[i]
            if f != 0:
                s = 1 if (len(v) == 2 and f > 0) else 0
                for p in range(indptr[lo + i], indptr[lo + i + 1]):
                    v[s, indices[p]] += f * values[p]
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def csr_margins(indptr, indices, values, w, b, z):
    """z (K, rows) = (X W + b)'; w (d, K)."""
    n_outputs = w.shape[1]
    row = np.empty(n_outputs, w.dtype)
    for i in range(len(indptr) - 1):
        for o in range(n_outputs):
            row[o] = b[o]
        for p in range(indptr[i], indptr[i + 1]):
            f, j = values[p], indices[p]
            for o in range(n_outputs):
                row[o] += f * w[j, o]
        for o in range(n_outputs):
            z[o, i] = row[o]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def csr_scatter(indptr, indices, values, g, v):
    """v (d, K) += X' g', with g (K, rows)."""
    n_outputs = len(g)
    row = np.empty(n_outputs, np.float64)
    for i in range(len(indptr) - 1):
        for o in range(n_outputs):
            row[o] = g[o, i]
        for p in range(indptr[i], indptr[i + 1]):
            f, j = values[p], indices[p]
            for o in range(n_outputs):
                v[j, o] += f * row[o]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def csr_own_side(indptr, indices, values, y, g, v):
    """v[:, y_i] += g[y_i, i] x_i; v (d, K)."""
    for i in range(len(indptr) - 1):
        o = y[i]
        f = g[o, i]
        if f != 0:
            for p in range(indptr[i], indptr[i + 1]):
                v[indices[p], o] += f * values[p]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def csr_hessian(indptr, indices, values, starts, size, curvature, intercept, hess):
    """Lower triangle of hess (D, D) += sum_i r_i (x_i, 1)(x_i, 1)' over the chunks; indices ascend within a row."""
    n, d, at = len(indptr) - 1, len(hess) - 1, 0
    for t in range(len(starts)):
        lo = starts[t]
        m = min(size, n - lo)
        for i in range(lo, lo + m):
            r = np.float64(curvature[at])
            at += 1
            if r > 0:
                for p in range(indptr[i], indptr[i + 1]):
                    f, j = r * values[p], indices[p]
                    for q in range(indptr[i], p + 1):
                        hess[j, indices[q]] += f * values[q]
                    if intercept:
                        hess[d, j] += f
                if intercept:
                    hess[d, d] += r


@njit(cache=True, nogil=True, error_model="numpy")
def csr_dense(indptr, indices, values, out):
    """out (rows, >= d) = the rows, zeros written out."""
    out[:] = 0
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            out[i, indices[p]] = values[p]
