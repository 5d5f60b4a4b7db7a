"""Dual coordinate ascent over dense rows: one output with vectorised dot products, several with one load of a row.

Sums may be reassociated (``fastmath``), which depends on the shape alone: the same bits whoever runs it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.dual_steps import (
    FAST,
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
from tutti.learners._kernels.inner import inner


@inner(fastmath=FAST)
def _square(row):
    s = row.dtype.type(0)
    for j in range(len(row)):
        s += row[j] * row[j]
    return s


@njit(inline="always")
def _dot(row, u):
    s = u.dtype.type(0)
    for j in range(len(row)):
        s += row[j] * u[j]
    return s


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def ascend_one(
    x, y, c, q, a, price, rest, a_new, price_new, rest_new, loss, order, chunk, metric, sigma, kappa, u, b, sums
):
    """Visit the rows of the chunks in ``order`` once; u (d,) and b (1,) move with them, ``a`` does not.

    metric (d,), sigma: curvature to expect from all shards, by feature and for all; q: squared norms of the rows
    under the metric; the intercept moves by kappa y da.
    """
    rests, one = len(rest) > 0, u.dtype.type(1)
    b0, k0 = b[0], u.dtype.type(kappa)
    todo = to_visit(order, chunk, c, rest, rest_new, sums)
    for r in range(len(todo)):
        i = todo[r]
        ci, old = c[i], a[i]
        row = x[i]
        sign = one if loss == SQUARED else y[i]
        m = sign * (_dot(row, u) + b0)
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
            for j in range(len(row)):
                u[j] += g * row[j] * metric[j]
        elif rests:
            rest_new[i] = rested(rest[i])
    b[0] = b0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def ascend_many(
    x, y, c, q, a, price, rest, a_new, price_new, rest_new, loss, order, chunk, metric, sigma, kappa, u, b, sums
):
    """As `ascend_one` for every class against the rest: y class codes, u (d, n_outputs), a (rows, n_outputs)."""
    n_outputs = a.shape[1]
    rests, one = len(rest) > 0, u.dtype.type(1)
    m, g = np.zeros(n_outputs, u.dtype), np.zeros(n_outputs, u.dtype)
    k0 = u.dtype.type(kappa)
    todo = to_visit(order, chunk, c, rest, rest_new, sums[0])
    for r in range(len(todo)):
        i = todo[r]
        ci = c[i]
        row = x[i]
        for k in range(n_outputs):
            m[k] = b[k]
        for j in range(len(row)):
            v = row[j]
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
            for j in range(len(row)):
                v = row[j] * metric[j]
                for k in range(n_outputs):
                    u[j, k] += g[k] * v
        elif rests:
            rest_new[i] = rested(rest[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def certify_one(x, y, c, a, loss, w, b, v, sums):
    """Add the float64 sums of a certificate at w (d,), b (1,): v (sides, d, 1) and `certify`'s (5, 2, 1)."""
    zero, sides = c.dtype.type(0), len(v)
    for i in range(len(y)):
        if c[i] == zero:
            continue
        row = x[i]
        m = b[0]
        for j in range(len(row)):
            m += float(row[j]) * float(w[j])
        sign = 1.0 if loss == SQUARED else float(y[i])
        dual = float(a[i])
        side = certify(loss, sign * m, float(y[i]), dual, float(c[i]), 0, sums)
        if dual != 0.0:
            into = v[side if sides == 2 else 0]
            g = dual * sign
            for j in range(len(row)):
                into[j, 0] += g * float(row[j])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def certify_many(x, y, c, a, loss, w, b, v, sums):
    """As `certify_one` for every class against the rest: w (d, K), v (sides, d, K), sums (5, 2, K)."""
    n, n_outputs = a.shape
    zero, sides = c.dtype.type(0), len(v)
    m, g = np.zeros(n_outputs), np.zeros((sides, n_outputs))
    for i in range(n):
        if c[i] == zero:
            continue
        row = x[i]
        for k in range(n_outputs):
            m[k] = b[k]
        for j in range(len(row)):
            value = float(row[j])
            for k in range(n_outputs):
                m[k] += value * float(w[j, k])
        g[:] = 0.0
        for k in range(n_outputs):
            sign = 1.0 if y[i] == k else -1.0
            dual = float(a[i, k])
            side = certify(loss, sign * m[k], sign, dual, float(c[i]), k, sums)
            g[side if sides == 2 else 0, k] = dual * sign
        for j in range(len(row)):
            value = float(row[j])
            for p in range(sides):
                for k in range(n_outputs):
                    v[p, j, k] += g[p, k] * value


@njit(cache=True, nogil=True)
def square_norms(x, n, out):
    """Write |x_i|^2 (n,); return the first row with a value that is not finite or too large to square, or -1.

    Without ``fastmath`` here: reassociation turns the test s - s == 0 into true for infinities and NaN.
    """
    bad = -1
    for i in range(n):
        out[i] = _square(x[i])
        if bad < 0 and not np.isfinite(out[i]):
            bad = i
    return bad


@njit(cache=True, nogil=True)
def add_weighted(x, c, out):
    """out (d, 1) += sum_i c_i x_i."""
    for i in range(len(c)):
        for j in range(x.shape[1]):
            out[j, 0] += c[i] * float(x[i, j])


@njit(cache=True, nogil=True, fastmath=FAST)
def moments(x, h, step, out):
    """out_j (d,) += sum_i h_i x_ij^2, guessed from every step-th row."""
    taken = (len(h) + step - 1) // step
    factor = len(h) / max(taken, 1)
    for i in range(0, len(h), step):
        share = h[i] * out.dtype.type(factor)
        for j in range(x.shape[1]):
            out[j] += share * x[i, j] * x[i, j]


@njit(cache=True, nogil=True, fastmath=FAST)
def weighted_norms(x, metric, floor, out):
    """Write sum_j metric_j x_ij^2 (n,), at least ``floor``."""
    for i in range(len(out)):
        s = metric.dtype.type(0)
        for j in range(x.shape[1]):
            s += metric[j] * x[i, j] * x[i, j]
        out[i] = max(s, floor)
