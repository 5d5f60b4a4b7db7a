"""Many binary outputs of the same rows, each with a strength of its own: one load of the rows serves all of them.

A chunk of rows stays in the second cache while the margins of all outputs, their links and their gradients are taken.
Rows and outputs are worked on four by four, so that sixteen sums share eight loads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.links import CHUNK, FAST, ROW, link, targets


def padded(n: int) -> int:
    """Return how many rows ``w`` and ``v`` should have for n outputs: two or three cost as much as four."""
    return n + 4 - n % 4 if n % 4 > 1 else n


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def dense_strengths(x, y, tables, sample, positive, w, b, code, apart, v, sums, r):
    """Add gradients and sums of all outputs; return the sum of all margins (not finite if X is not).

    Parameters
    ----------
    x, y : (rows, d), (rows,) class codes.   sample : (rows,) weights or empty.
    tables : (K, codes) weight of a row of each class by output.   positive : (K,) the class that is +1.
    w, b : (K or more, d), (K or more,) in the type of the arithmetic.   code : see `links.LOSSES`.
    apart : whether the rows of y = -1 and those of y = +1 are kept apart.
    v : (K or more, d) added to; apart (2 K or more, d): first of the rows of y = -1, then of those of y = +1.
    sums : (K, 2, 4) added to, see `links.link`.   r : (K, rows) curvatures to write, or (K, 0).
    """
    n = len(y)
    d = w.shape[1]
    z = np.empty((len(w), ROW), w.dtype)
    g = np.zeros((len(v), ROW), w.dtype)
    part = np.empty(v.shape, w.dtype)
    room = np.empty((5, ROW), w.dtype)
    everything = 0.0
    for lo in range(0, n, CHUNK):
        m = min(CHUNK, n - lo)
        _margins(x, lo, m, w, b, z)
        everything += _links(z, y, lo, m, tables, sample, positive, code, apart, g, sums, r, room)
        part[:] = 0
        _gradients(x, lo, m, g, part)
        for o in range(len(v)):
            for j in range(d):
                v[o, j] += part[o, j]
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def chunk_strengths(z, y, lo, tables, sample, positive, code, apart, g, sums, r):
    """The links of rows ``lo`` and on, from margins z (K, m) to g (K, m) or (2 K, m); see `dense_strengths`."""
    n = z.shape[1]
    room = np.empty((5, ROW), z.dtype)
    everything = 0.0
    for at in range(0, n, CHUNK):
        m = min(CHUNK, n - at)
        inner = (
            z[:, at : at + m],
            y,
            lo + at,
            m,
            tables,
            sample,
            positive,
            code,
            apart,
            g[:, at : at + m],
            sums,
            r,
            room,
        )
        everything += _links(*inner)
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _links(z, y, lo, m, tables, sample, positive, code, apart, g, sums, r, room):
    k, e, sign, c, bend = room[0], room[1], room[2], room[3], room[4]
    n_outputs = len(tables)
    one, half = z.dtype.type(1), z.dtype.type(0.5)
    everything = 0.0
    for o in range(n_outputs):
        row = z[o]
        for i in range(m):
            everything += row[i]
        targets(y, lo, m, positive[o], tables[o], sample, sign, c)
        link(code, row, sign, c, k, bend, e, one, one, m, sums[o])
        if r.shape[1] > 0:
            for i in range(m):
                r[o, lo + i] = bend[i]
        if apart:
            for i in range(m):
                above = half * (sign[i] + one) * k[i]
                g[n_outputs + o, i] = above
                g[o, i] = k[i] - above
        else:
            for i in range(m):
                g[o, i] = k[i]
    return everything


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _margins(x, lo, m, w, b, z):
    """z[:, :m] = w x[lo : lo + m]' + b."""
    real = w.dtype.type
    n_outputs, d = w.shape
    o = 0
    while o + 4 <= n_outputs:
        i = 0
        while i + 4 <= m:
            a = lo + i
            s00, s01, s02, s03 = real(0), real(0), real(0), real(0)
            s10, s11, s12, s13 = real(0), real(0), real(0), real(0)
            s20, s21, s22, s23 = real(0), real(0), real(0), real(0)
            s30, s31, s32, s33 = real(0), real(0), real(0), real(0)
            for j in range(d):
                x0, x1, x2, x3 = x[a, j], x[a + 1, j], x[a + 2, j], x[a + 3, j]
                w0, w1, w2, w3 = w[o, j], w[o + 1, j], w[o + 2, j], w[o + 3, j]
                s00 += w0 * x0
                s01 += w0 * x1
                s02 += w0 * x2
                s03 += w0 * x3
                s10 += w1 * x0
                s11 += w1 * x1
                s12 += w1 * x2
                s13 += w1 * x3
                s20 += w2 * x0
                s21 += w2 * x1
                s22 += w2 * x2
                s23 += w2 * x3
                s30 += w3 * x0
                s31 += w3 * x1
                s32 += w3 * x2
                s33 += w3 * x3
            b0, b1, b2, b3 = b[o], b[o + 1], b[o + 2], b[o + 3]
            z[o, i], z[o, i + 1], z[o, i + 2], z[o, i + 3] = s00 + b0, s01 + b0, s02 + b0, s03 + b0
            z[o + 1, i], z[o + 1, i + 1], z[o + 1, i + 2], z[o + 1, i + 3] = s10 + b1, s11 + b1, s12 + b1, s13 + b1
            z[o + 2, i], z[o + 2, i + 1], z[o + 2, i + 2], z[o + 2, i + 3] = s20 + b2, s21 + b2, s22 + b2, s23 + b2
            z[o + 3, i], z[o + 3, i + 1], z[o + 3, i + 2], z[o + 3, i + 3] = s30 + b3, s31 + b3, s32 + b3, s33 + b3
            i += 4
        for one in range(o, o + 4):
            _row_margins(x, lo, i, m, w, b, one, z)
        o += 4
    while o < n_outputs:
        _row_margins(x, lo, 0, m, w, b, o, z)
        o += 1


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _row_margins(x, lo, i, m, w, b, o, z):
    """z[o, i:m], four rows at a time."""
    real = w.dtype.type
    d = w.shape[1]
    while i + 4 <= m:
        a = lo + i
        s0, s1, s2, s3 = real(0), real(0), real(0), real(0)
        for j in range(d):
            f = w[o, j]
            s0 += x[a, j] * f
            s1 += x[a + 1, j] * f
            s2 += x[a + 2, j] * f
            s3 += x[a + 3, j] * f
        z[o, i], z[o, i + 1], z[o, i + 2], z[o, i + 3] = s0 + b[o], s1 + b[o], s2 + b[o], s3 + b[o]
        i += 4
    while i < m:
        s0 = real(0)
        for j in range(d):
            s0 += x[lo + i, j] * w[o, j]
        z[o, i] = s0 + b[o]
        i += 1


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _gradients(x, lo, m, g, v):
    """v += g[:, :m] x[lo : lo + m]."""
    n_outputs, d = v.shape
    o = 0
    while o + 4 <= n_outputs:
        v0, v1, v2, v3 = v[o], v[o + 1], v[o + 2], v[o + 3]
        i = 0
        while i + 4 <= m:
            a = lo + i
            x0, x1, x2, x3 = x[a], x[a + 1], x[a + 2], x[a + 3]
            g00, g01, g02, g03 = g[o, i], g[o, i + 1], g[o, i + 2], g[o, i + 3]
            g10, g11, g12, g13 = g[o + 1, i], g[o + 1, i + 1], g[o + 1, i + 2], g[o + 1, i + 3]
            g20, g21, g22, g23 = g[o + 2, i], g[o + 2, i + 1], g[o + 2, i + 2], g[o + 2, i + 3]
            g30, g31, g32, g33 = g[o + 3, i], g[o + 3, i + 1], g[o + 3, i + 2], g[o + 3, i + 3]
            for j in range(d):
                y0, y1, y2, y3 = x0[j], x1[j], x2[j], x3[j]
                v0[j] += g00 * y0 + g01 * y1 + g02 * y2 + g03 * y3
                v1[j] += g10 * y0 + g11 * y1 + g12 * y2 + g13 * y3
                v2[j] += g20 * y0 + g21 * y1 + g22 * y2 + g23 * y3
                v3[j] += g30 * y0 + g31 * y1 + g32 * y2 + g33 * y3
            i += 4
        for one in range(o, o + 4):
            _row_gradients(x, lo, i, m, g, one, v)
        o += 4
    while o < n_outputs:
        _row_gradients(x, lo, 0, m, g, o, v)
        o += 1


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _row_gradients(x, lo, i, m, g, o, v):
    """v[o] += the rows i to m, four at a time."""
    d = v.shape[1]
    mine = v[o]
    while i + 4 <= m:
        a = lo + i
        x0, x1, x2, x3 = x[a], x[a + 1], x[a + 2], x[a + 3]
        g0, g1, g2, g3 = g[o, i], g[o, i + 1], g[o, i + 2], g[o, i + 3]
        for j in range(d):
            mine[j] += g0 * x0[j] + g1 * x1[j] + g2 * x2[j] + g3 * x3[j]
        i += 4
    while i < m:
        g0, x0 = g[o, i], x[lo + i]
        for j in range(d):
            mine[j] += g0 * x0[j]
        i += 1
