"""Dense rows: margins, link and gradient of an output in one pass over memory; the parts of many outputs and Hessians.

X is (rows, d) float32 or float64; weights, margins and curvatures share the type of ``w`` (the arithmetic); sums are
float64.  A chunk is ``size`` <= 256 rows from ``starts[i]``, so that a sample of the rows is read where it lies.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.links import CHUNK, FAST, ROW, link, targets


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def dense_pass(x, y, table, sample, w, b, code, widths, starts, size, v, sums, curvature):
    """Add one output's gradient and sums over the chunks; return the sum of all margins (not finite if X is not).

    Parameters
    ----------
    x, y : (rows, d), (rows,) class codes or targets.   table : weight by class.   sample : (rows,) or empty.
    w, b : (d,) weights and the intercept in the same type.
    code : see `links.LOSSES`.   widths : (2,) the hinge's smoothing and curvature window, in the type of ``w``.
    starts, size : first rows of the chunks and their length.
    v : (2, d) or (1, d), sums : (2, 4) added to, per side.
    curvature : (rows of the chunks,) written in their order, or empty.
    """
    n, d = x.shape
    room = np.empty((6, ROW), w.dtype)
    z, k, r, e, sign, c = room[0], room[1], room[2], room[3], room[4], room[5]
    part = np.empty((2, d), w.dtype)
    order = np.empty(CHUNK, np.int64)
    everything, at, stop = 0.0, 0, np.int64(CHUNK)
    for t in range(len(starts)):
        lo = starts[t]
        m = min(size, n - lo)
        everything += _margins(x, lo, m, w, b, z)
        targets(y, lo, m, 1, table, sample, sign, c)
        link(code, z, sign, c, k, r, e, widths[0], widths[1], m, sums)
        if len(curvature) > 0:
            for i in range(m):
                curvature[at + i] = r[i]
        at += m
        if len(v) == 1:
            found = np.int64(0)
            for i in range(m):
                if k[i] != 0:
                    order[found] = i
                    found += 1
            _axpy(x, lo, k, order, np.int64(0), found, part[0])
        else:
            found, last = np.int64(0), stop
            for i in range(m):
                if k[i] > 0:
                    order[found] = i
                    found += 1
                elif k[i] != 0:
                    last -= 1
                    order[last] = i
            _axpy(x, lo, k, order, np.int64(0), found, part[1])
            _axpy(x, lo, k, order, last, stop, part[0])
        for s in range(len(v)):
            for j in range(d):
                v[s, j] += part[s, j]
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _margins(x, lo, m, w, b, z):
    """z[:m] = x[lo : lo + m] w + b, four rows at a time (w is loaded once for them); returns the sum of z."""
    real = w.dtype.type
    d = x.shape[1]
    total = real(0)
    i = 0
    while i + 4 <= m:
        s0, s1, s2, s3 = real(0), real(0), real(0), real(0)
        for j in range(d):
            f = w[j]
            s0 += x[lo + i, j] * f
            s1 += x[lo + i + 1, j] * f
            s2 += x[lo + i + 2, j] * f
            s3 += x[lo + i + 3, j] * f
        z[i], z[i + 1], z[i + 2], z[i + 3] = s0 + b, s1 + b, s2 + b, s3 + b
        total += (s0 + s1) + (s2 + s3)
        i += 4
    while i < m:
        s0 = real(0)
        for j in range(d):
            s0 += x[lo + i, j] * w[j]
        z[i] = s0 + b
        total += s0
        i += 1
    return total + real(m) * b


@inner(fastmath=FAST, error_model="numpy")
def _axpy(x, lo, k, order, first, last, g):
    """g = sum of k[i] x[lo + i] over i in order[first:last], four rows at a time."""
    d = x.shape[1]
    g[:] = 0
    p = first
    while p + 4 <= last:
        i0, i1, i2, i3 = order[p], order[p + 1], order[p + 2], order[p + 3]
        k0, k1, k2, k3 = k[i0], k[i1], k[i2], k[i3]
        x0, x1, x2, x3 = x[lo + i0], x[lo + i1], x[lo + i2], x[lo + i3]
        for j in range(d):
            g[j] += k0 * x0[j] + k1 * x1[j] + k2 * x2[j] + k3 * x3[j]
        p += 4
    while p < last:
        i0 = order[p]
        k0, x0 = k[i0], x[lo + i0]
        for j in range(d):
            g[j] += k0 * x0[j]
        p += 1


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def links(z, y, table, sample, code, widths, g, curvature, sums):
    """Links of many outputs, one class against the rest each; z, g, curvature (K, rows); returns the sum of margins.

    widths (2, K) smoothings and curvature windows of the hinge; curvature may be (0, 0); sums (K, 2, 4) is added to.
    """
    n_outputs, n = z.shape
    room = np.empty((5, ROW), z.dtype)
    k, r, e, sign, c = room[0], room[1], room[2], room[3], room[4]
    everything = 0.0
    for o in range(n_outputs):
        for lo in range(0, n, CHUNK):
            m = min(CHUNK, n - lo)
            row = z[o, lo : lo + m]
            for i in range(m):
                everything += row[i]
            targets(y, lo, m, o if n_outputs > 1 else 1, table, sample, sign, c)
            link(code, row, sign, c, k, r, e, widths[0, o], widths[1, o], m, sums[o])
            for i in range(m):
                g[o, lo + i] = k[i]
            if len(curvature) > 0:
                for i in range(m):
                    curvature[o, lo + i] = r[i]
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def own_side(x, y, g, v):
    """v[:, y_i] += g[y_i, i] x_i: the positive side of one-against-the-rest; x (rows, d), v (d, K)."""
    n, d = x.shape
    for i in range(n):
        o = y[i]
        f = g[o, i]
        if f != 0:
            for j in range(d):
                v[j, o] += f * x[i, j]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def scaled_rows(x, starts, size, curvature, chunk, at, intercept, out):
    """Fill ``out`` with sqrt(r_i) (x_i, 1) for the rows with r_i > 0 from chunk ``chunk`` on.

    Returns (next chunk, next position in ``curvature``, rows written); a chunk is written whole or not at all.
    """
    n, d = x.shape
    rows = 0
    while chunk < len(starts):
        lo = starts[chunk]
        m = min(size, n - lo)
        if rows + m > len(out):
            break
        for i in range(m):
            if curvature[at + i] > 0:
                f = np.sqrt(curvature[at + i])
                for j in range(d):
                    out[rows, j] = f * x[lo + i, j]
                if intercept:
                    out[rows, d] = f
                rows += 1
        at += m
        chunk += 1
    return chunk, at, rows
