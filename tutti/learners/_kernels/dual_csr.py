"""Dual coordinate ascent over rows in CSR: one output in scalars, several outputs with one load of a row.

``indices`` and ``indptr`` come as uint32, so that no index is tested for being negative, and dot products run in four
scalar chains: vector gathers are slower on rows of a few dozen values.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.dual_steps import (
    GAP,
    LOGISTIC,
    RISE,
    SQUARED,
    VALUE,
    account,
    certify,
    conjugate,
    rested,
    solve,
    to_visit,
)
from tutti.learners._kernels.prefetch import prefetch

AHEAD = 2  # rows: where many rest, the next one lies where the hardware does not look
LINE = np.uint32(16)  # values of 4 bytes in a cache line


@njit(inline="always")
def _fetch(x, i):
    indptr, indices, values = x
    t, stop = indptr[i], indptr[i + 1]
    while t < stop:
        prefetch(indices, t)
        prefetch(values, t)
        t += LINE


@njit(inline="always")
def _dot(indices, values, u, start, stop):
    zero = u.dtype.type(0)
    s0, s1, s2, s3 = zero, zero, zero, zero
    t = start
    while t + 4 <= stop:
        s0 += values[t] * u[indices[t]]
        s1 += values[t + 1] * u[indices[t + 1]]
        s2 += values[t + 2] * u[indices[t + 2]]
        s3 += values[t + 3] * u[indices[t + 3]]
        t += 4
    while t < stop:
        s0 += values[t] * u[indices[t]]
        t += 1
    return (s0 + s1) + (s2 + s3)


@njit(cache=True, nogil=True, error_model="numpy")
def ascend_one(x, y, c, q, a, price, rest, a_new, price_new, rest_new, loss, order, chunk, sigma, kappa, u, b, sums):
    """Visit the rows of the chunks in ``order`` once; u (d,) and b (1,) move with them, ``a`` does not.

    The values of x are scaled by the roots of the metric and u by their inverses, so that one gather serves both; q:
    squared norms of the scaled rows; sigma: factor on top; the intercept moves by kappa y da.
    """
    indptr, indices, values = x
    rests, one = len(rest) > 0, u.dtype.type(1)
    b0, k0 = b[0], u.dtype.type(kappa)
    todo = to_visit(order, chunk, c, rest, rest_new, sums)
    for r in range(len(todo)):
        i = todo[r]
        if rests and r + AHEAD < len(todo):
            _fetch(x, todo[r + AHEAD])
        ci, old = c[i], a[i]
        start, stop = indptr[i], indptr[i + 1]
        sign = one if loss == SQUARED else y[i]
        m = sign * (_dot(indices, values, u, start, stop) + b0)
        before = price[i] if loss == LOGISTIC else conjugate(loss, old, ci, y[i])
        new, after, value, gap = solve(loss, m, y[i], old, ci, sigma * q[i] + k0, before)
        a_new[i] = new
        if loss == LOGISTIC:
            price_new[i] = after
        sums[RISE] += before - after
        sums[GAP] += gap
        sums[VALUE] += value
        if new != old:
            account(loss, y[i], new - old, sums)
            g = (new - old) * sign
            b0 += k0 * g
            g *= sigma
            for t in range(start, stop):
                u[indices[t]] += g * values[t]
        elif rests:
            rest_new[i] = rested(rest[i])
    b[0] = b0


@njit(cache=True, nogil=True, error_model="numpy")
def ascend_many(x, y, c, q, a, price, rest, a_new, price_new, rest_new, loss, order, chunk, sigma, kappa, u, b, sums):
    """As `ascend_one` for every class against the rest: y class codes, u (d, n_outputs), a (rows, n_outputs)."""
    indptr, indices, values = x
    n_outputs = a.shape[1]
    rests, one = len(rest) > 0, u.dtype.type(1)
    m, g = np.zeros(n_outputs, u.dtype), np.zeros(n_outputs, u.dtype)
    k0 = u.dtype.type(kappa)
    todo = to_visit(order, chunk, c, rest, rest_new, sums[0])
    for r in range(len(todo)):
        i = todo[r]
        ci = c[i]
        start, stop = indptr[i], indptr[i + 1]
        for k in range(n_outputs):
            m[k] = b[k]
        for t in range(start, stop):
            j, v = indices[t], values[t]
            for k in range(n_outputs):
                m[k] += v * u[j, k]
        moved = False
        for k in range(n_outputs):
            old = a[i, k]
            sign = one if y[i] == k else -one
            before = price[i, k] if loss == LOGISTIC else conjugate(loss, old, ci, sign)
            new, after, value, gap = solve(loss, sign * m[k], sign, old, ci, sigma * q[i] + k0, before)
            a_new[i, k] = new
            if loss == LOGISTIC:
                price_new[i, k] = after
            sums[k, RISE] += before - after
            sums[k, GAP] += gap
            sums[k, VALUE] += value
            account(loss, sign, new - old, sums[k])
            g[k] = sigma * (new - old) * sign
            b[k] += k0 * (new - old) * sign
            moved = moved or new != old
        if moved:
            for t in range(start, stop):
                j, v = indices[t], values[t]
                for k in range(n_outputs):
                    u[j, k] += g[k] * v
        elif rests:
            rest_new[i] = rested(rest[i])


@njit(cache=True, nogil=True, error_model="numpy")
def certify_one(x, y, c, a, loss, w, b, v, sums):
    """Add the float64 sums of a certificate at w (d,), b (1,): v (sides, d, 1) and `certify`'s (5, 2, 1)."""
    indptr, indices, values = x
    zero, sides = c.dtype.type(0), len(v)
    for i in range(len(y)):
        if c[i] == zero:
            continue
        start, stop = indptr[i], indptr[i + 1]
        s0, s1 = b[0], 0.0
        t = start
        while t + 2 <= stop:
            s0 += float(values[t]) * float(w[indices[t]])
            s1 += float(values[t + 1]) * float(w[indices[t + 1]])
            t += 2
        while t < stop:
            s0 += float(values[t]) * float(w[indices[t]])
            t += 1
        sign = 1.0 if loss == SQUARED else float(y[i])
        dual = float(a[i])
        side = certify(loss, sign * (s0 + s1), float(y[i]), dual, float(c[i]), 0, sums)
        if dual != 0.0:
            into = v[side if sides == 2 else 0].reshape(-1)
            g = dual * sign
            for t in range(start, stop):
                into[indices[t]] += g * float(values[t])


@njit(cache=True, nogil=True, error_model="numpy")
def certify_many(x, y, c, a, loss, w, b, v, sums):
    """As `certify_one` for every class against the rest: w (d, K), v (sides, d, K), sums (5, 2, K)."""
    indptr, indices, values = x
    n, n_outputs = a.shape
    zero, sides = c.dtype.type(0), len(v)
    m, g = np.zeros(n_outputs), np.zeros((sides, n_outputs))
    for i in range(n):
        if c[i] == zero:
            continue
        start, stop = indptr[i], indptr[i + 1]
        for k in range(n_outputs):
            m[k] = b[k]
        for t in range(start, stop):
            j, value = indices[t], float(values[t])
            for k in range(n_outputs):
                m[k] += value * float(w[j, k])
        g[:] = 0.0
        for k in range(n_outputs):
            sign = 1.0 if y[i] == k else -1.0
            dual = float(a[i, k])
            side = certify(loss, sign * m[k], sign, dual, float(c[i]), k, sums)
            g[side if sides == 2 else 0, k] = dual * sign
        for t in range(start, stop):
            j, value = indices[t], float(values[t])
            for p in range(sides):
                for k in range(n_outputs):
                    v[p, j, k] += g[p, k] * value


@njit(cache=True, nogil=True)
def square_norms(x, n, out):
    """Write |x_i|^2 (n,); return the first row with a value that is not finite or too large to square, or -1."""
    indptr, _, values = x
    bad = -1
    for i in range(n):
        s0, s1, s2, s3 = values.dtype.type(0), values.dtype.type(0), values.dtype.type(0), values.dtype.type(0)
        t, stop = indptr[i], indptr[i + 1]
        while t + 4 <= stop:
            s0 += values[t] * values[t]
            s1 += values[t + 1] * values[t + 1]
            s2 += values[t + 2] * values[t + 2]
            s3 += values[t + 3] * values[t + 3]
            t += 4
        while t < stop:
            s0 += values[t] * values[t]
            t += 1
        out[i] = (s0 + s1) + (s2 + s3)
        if bad < 0 and not np.isfinite(out[i]):
            bad = i
    return bad


@njit(cache=True, nogil=True)
def add_weighted(x, c, out):
    """out (d, 1) += sum_i c_i x_i."""
    indptr, indices, values = x
    for i in range(len(c)):
        for t in range(indptr[i], indptr[i + 1]):
            out[indices[t], 0] += c[i] * float(values[t])


@njit(cache=True, nogil=True)
def moments(x, h, step, out):
    """out_j (d,) += sum_i h_i x_ij^2, guessed from every step-th row."""
    indptr, indices, values = x
    taken = (len(h) + step - 1) // step
    factor = len(h) / max(taken, 1)
    for i in range(0, len(h), step):
        share = h[i] * out.dtype.type(factor)
        for t in range(indptr[i], indptr[i + 1]):
            out[indices[t]] += share * values[t] * values[t]


@njit(cache=True, nogil=True)
def scaled(x, root, floor, q, out):
    """Return x with its columns times ``root`` (d,), the values in ``out``; write the squared norms of the rows (n,).

    The norms are at least ``floor``.
    """
    indptr, indices, values = x
    zero = root.dtype.type(0)
    for i in range(len(q)):
        s0, s1 = zero, zero
        t, stop = indptr[i], indptr[i + 1]
        while t + 2 <= stop:
            first, second = root[indices[t]] * values[t], root[indices[t + 1]] * values[t + 1]
            out[t], out[t + 1] = first, second
            s0 += first * first
            s1 += second * second
            t += 2
        if t < stop:
            out[t] = root[indices[t]] * values[t]
            s0 += out[t] * out[t]
        q[i] = max(s0 + s1, floor)
    return indptr, indices, out
