"""One coordinate of the dual: the exact or nearly exact maximiser, and what it is worth.

Float32 arithmetic gets polynomials instead of libm (a libm call in the chain of dependent rows costs more than the
row); float64 gets libm and a root to the last digits.  Everything is inlined into the loops over rows.

Source: Hsieh et al. (2008), "A dual coordinate descent method for large-scale linear SVM"; Yu, Huang, Lin (2011),
"Dual coordinate descent methods for logistic regression and maximum entropy models".
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from tutti.learners._kernels.inner import inner

HINGE, SQUARED_HINGE, LOGISTIC, SQUARED = 0, 1, 2, 3
CODES = {"hinge": HINGE, "squared_hinge": SQUARED_HINGE, "logistic": LOGISTIC, "squared": SQUARED}

RISE, MINUS, PLUS, GAP, VALUE, COVERED, VISITED = range(7)  # columns of the sums of a local epoch
N_SUMS = 7
RELAX = 1.5  # over-relaxation of the hinge: fewer sweeps, and any number below 2 keeps the dual rising
LONGEST = 4  # a row found at its bound for the k-th time in a row is skipped 2^(min(k, LONGEST) - 1) - 1 times

FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be reassociated, but a NaN must stay one
SUMS = FAST - {"contract"}
F = np.float32


def exp_of_minus(r):
    """exp(-r) for r >= 0; float32 to 1e-5 relative."""
    raise NotImplementedError


@overload(exp_of_minus, inline="always")
def _exp_of_minus(r):
    if r == types.float32:

        def single(r):
            y = min(r, F(87)) * F(1 / 64)
            p = F(0.000693760173) * y - F(0.00713199271)
            p = p * y + F(0.0405573195)
            p = p * y - F(0.166118892)
            p = p * y + F(0.499866834)
            p = p * y - F(0.9999874)
            p = p * y + F(0.9999998)
            p *= p
            p *= p
            p *= p
            p *= p
            p *= p
            return p * p

        return single

    def double(r):
        return math.exp(-r)

    return double


def log_one_plus(e):
    """ln(1 + e) for 0 <= e <= 1; float32 to 2e-7 relative."""
    raise NotImplementedError


@overload(log_one_plus, inline="always")
def _log_one_plus(e):
    if e == types.float32:

        def single(e):
            p = F(0.0440895962) - F(0.0085391984) * e
            p = p * e - F(0.107681664)
            p = p * e + F(0.177452381)
            p = p * e - F(0.244954616)
            p = p * e + F(0.332754796)
            p = p * e - F(0.499974054)
            p = p * e + F(0.999999806)
            return p * e

        return single

    def double(e):
        return math.log1p(e)

    return double


def is_single(x):
    """True where x is a float32, known when the loop is compiled."""
    raise NotImplementedError


@overload(is_single, inline="always")
def _is_single(x):
    flag = x == types.float32

    def known(x):
        return flag

    return known


@njit(inline="always")
def sigmoid_of_minus(s):
    """1 / (1 + e^s), precise at both ends."""
    e = exp_of_minus(abs(s))
    d = type(s)(1) / (type(s)(1) + e)
    return e * d if s > 0 else d


@njit(inline="always")
def conjugate(loss, a, c, y):
    """C l*(-a / C), the price of the dual variable (logistic: only at its ends, 0)."""
    if loss == HINGE:
        return -a
    if loss == SQUARED_HINGE:
        return a * a / (type(a)(4) * c) - a
    if loss == SQUARED:
        return a * a / (type(a)(2) * c) - a * y
    return type(a)(0)


@njit(inline="always")
def logistic_root(m, a, c, q):
    """s with s = m + q (c sigmoid(-s) - a): then c sigmoid(-s) is the best dual variable."""
    one = type(m)(1)
    e = sigmoid_of_minus(m)
    s = m + q * (c * e - a) / (one + q * c * e * (one - e))
    if is_single(m):
        rounds = 12 if q * c > type(m)(4) else 0  # one Newton step is enough where the curve is flat
        small = type(m)(1e-3)
    else:
        rounds = 60
        small = type(m)(1e-10)
    if rounds > 0:
        lo, hi = m - q * a, m + q * (c - a)
        s = min(max(s, lo), hi)
        for _ in range(rounds):
            e = sigmoid_of_minus(s)
            r = s - m - q * (c * e - a)
            if r > 0:
                hi = s
            else:
                lo = s
            t = s - r / (one + q * c * e * (one - e))
            if t <= lo or t >= hi:
                t = type(m)(0.5) * (lo + hi)
            change = abs(t - s)
            s = t
            if change <= small * (one + abs(s)):
                break
    return s


@njit(inline="always")
def solve(loss, m, y, a, c, q, price):
    """Return (new a, its price, loss at m, gap at m) of one coordinate.

    m: margin (prediction for the squared loss), q: curvature, price: C l*(-a / C).
    """
    zero, one, half = type(m)(0), type(m)(1), type(m)(0.5)
    if loss == HINGE:
        new = min(max(a + type(m)(RELAX) * (one - m) / q, zero), c)
        value = c * max(one - m, zero)
        return new, -new, value, value - a + a * m
    if loss == SQUARED_HINGE:
        h = half / c
        new = max(a + (one - m - a * h) / (q + h), zero)
        value = c * max(one - m, zero) ** 2
        return new, new * new * h * half - new, value, value + a * a * h * half - a + a * m
    if loss == SQUARED:
        h = one / c
        new = a + (y - m - a * h) / (q + h)
        value = half * c * (m - y) ** 2
        return new, half * new * new * h - new * y, value, value + half * a * a * h - a * y + a * m
    e = exp_of_minus(abs(m))
    value = c * (log_one_plus(e) + max(-m, zero))
    s = logistic_root(m, a, c, q)
    r = abs(s)
    e = exp_of_minus(r)
    d = one / (one + e)
    rare, common = c * e * d, c * d  # the smaller and the larger of a and c - a, each to full precision
    new = rare if s > 0 else common
    return new, -rare * r - c * log_one_plus(e), value, value + price + a * m


@njit(inline="always")
def exact(loss, m, y, a, c):
    """Return loss at m, phi = C l*(-a / C), a phi'(a) and a C / (C - a) in float64, for the certificate.

    Where a is so near to C that the last two lose their meaning, phi and 0 take their place: both ways
    phi((1 - r) a) <= phi - r slope + r^2 curve / (2 (1 - r)).
    """
    if loss == HINGE:
        return c * max(1.0 - m, 0.0), -a, -a, 0.0
    if loss == SQUARED_HINGE:
        return c * max(1.0 - m, 0.0) ** 2, a * a / (4.0 * c) - a, 0.0, 0.0
    if loss == SQUARED:
        return 0.5 * c * (m - y) ** 2, a * a / (2.0 * c) - a * y, 0.0, 0.0
    value = c * (math.log1p(math.exp(-abs(m))) + max(-m, 0.0))
    if a <= 0.0:
        return value, 0.0, 0.0, 0.0
    if a >= c:
        return value, 0.0, 0.0, 0.0
    below, above = math.log(a / c), math.log1p(-a / c)
    phi = a * below + (c - a) * above
    if c - a < 1e-6 * c:
        return value, phi, phi, 0.0
    return value, phi, a * (below - above), a * c / (c - a)


@njit(inline="always")
def account(loss, y, change, sums):
    """Add the change of a dual variable to its side (squared loss: all on one side, with its sign)."""
    if loss == SQUARED or y > 0:
        sums[PLUS] += change
    else:
        sums[MINUS] += change


@njit(inline="always")
def certify(loss, m, y, a, c, k, sums):
    """Add a row to the sums (5, 2, n_outputs): loss, a, phi, slope, curve; return its side."""
    side = 1 if loss == SQUARED or y > 0 else 0
    value, phi, slope, curve = exact(loss, m, y, a, c)
    sums[0, side, k] += value
    sums[1, side, k] += a
    sums[2, side, k] += phi
    sums[3, side, k] += slope
    sums[4, side, k] += curve
    return side


@njit(cache=True, nogil=True)
def begin(w, b, scale, u, local_b, sums):
    """Start a local epoch: u (d, n_outputs) = w in the scaled features of the shard, local_b = b, sums = 0."""
    d, n_outputs = w.shape
    if n_outputs == 1:
        flat, out = w.reshape(-1), u.reshape(-1)
        for j in range(d):
            out[j] = flat[j] * scale[j]
    else:
        for j in range(d):
            for k in range(n_outputs):
                u[j, k] = w[j, k] * scale[j]
    for k in range(n_outputs):  # a loop: with an array on the right numba compiles what it would say of its shape
        local_b[k] = b[k]
    sums[:] = 0.0


@njit(cache=True, nogil=True, fastmath=SUMS)
def finish(w, b, scale, back, sigma, response, u, sums, rise, a, seen):
    """Turn the local model ``u`` (d, n_outputs) into the change it stands for, (u - w scale) back; write the sums.

    A weight that no row touched changes by exactly 0: w scale is rounded as `begin` rounded it (which is why products
    and sums are not contracted here).  Else all merges would move it the same way, by an ulp each.
    """
    d, n_outputs = w.shape
    factor = w.dtype.type(1) / sigma
    if n_outputs == 1:
        flat, out, dot = w.reshape(-1), u.reshape(-1), 0.0
        for j in range(d):
            change = factor * ((out[j] - flat[j] * scale[j]) * back[j])
            out[j] = change
            dot += float(flat[j]) * float(change)
        sums[0, RISE] -= dot
    else:
        for j in range(d):
            for k in range(n_outputs):
                change = factor * ((u[j, k] - w[j, k] * scale[j]) * back[j])
                u[j, k] = change
                sums[k, RISE] -= float(w[j, k]) * float(change)
    seen[:] = 0.0
    for k in range(n_outputs):
        rise[k] = sums[k, RISE] - b[k] * (sums[k, PLUS] - sums[k, MINUS])
        a[0, k], a[1, k] = sums[k, MINUS], sums[k, PLUS]
        seen[0] += sums[k, GAP]
        seen[1] += sums[k, VALUE]
    seen[2], seen[3] = sums[0, COVERED], sums[0, VISITED]
    seen[4] = sums[0, VISITED] * response


@njit(cache=True, nogil=True)
def keep(loss, order, chunk, c, eta, a, a_new, price, price_new, rest, rest_new):
    """Move the visited rows by ``eta`` (n_outputs,) of the way from ``a`` to ``a_new`` (rows, n_outputs).

    Rows without a weight have a = a_new = 0; rows that rest are told apart without a branch: they come in no order.
    """
    n, rests = len(c), len(rest) > 0
    for k in range(len(eta)):
        step, whole = a.dtype.type(eta[k]), eta[k] == 1.0
        for o in range(len(order)):
            first = order[o] * chunk
            for i in range(first, min(first + chunk, n)):
                old, new = a[i, k], a_new[i, k]
                new = new if whole else old + step * (new - old)
                a[i, k] = old if rests and rest[i] & 15 > 0 else new
                if loss == LOGISTIC:
                    price[i, k] = price_new[i, k] if whole else exact(loss, 0.0, 0.0, float(new), float(c[i]))[1]
    if rests:
        for o in range(len(order)):
            first = order[o] * chunk
            for i in range(first, min(first + chunk, n)):
                rest[i] = rest_new[i]


@inner()
def to_visit(order, chunk, c, rest, rest_new, sums):
    """Return the rows of the chunks that have a weight and do not rest; write what the rests become."""
    n, rests, k = len(c), len(rest) > 0, 0
    rows = np.empty(len(order) * chunk, np.uint32)
    for o in range(len(order)):
        first = order[o] * chunk
        last = min(first + chunk, n)
        sums[COVERED] += last - first
        for i in range(first, last):
            rows[k] = i
            visited = c[i] != 0
            if rests:
                resting = rest[i] & 15 > 0
                rest_new[i] = rest[i] - 1 if resting else 0
                visited = visited and not resting
            k += 1 if visited else 0
    sums[VISITED] += k
    return rows[:k]


@njit(inline="always")
def rested(rest):
    """Return the code of a row that was found at its bound again: level in the high bits, visits to skip in the low."""
    level = min((rest >> 4) + 1, LONGEST)
    return (level << 4) | ((1 << (level - 1)) - 1)


@njit(cache=True, nogil=True)
def stiffness(moments, scale, n_shards, metric):
    """Write what n_shards shards together make of each feature's curvature, in units of one shard's.

        metric_j = 1 + (n - 1) n S_j / (1 + n S_j),     S_j = sum over the rows of one part of h_i x_ij^2

    A feature that one shard's rows pin down (S_j large) is pinned down by all of them: n times the curvature.  One
    that hardly any row touches is left to its row.
    """
    n = float(n_shards)
    for j in range(len(moments)):
        s = n * scale * moments[j]
        metric[j] = 1.0 + (n - 1.0) * s / (1.0 + s)


@njit(cache=True, nogil=True, fastmath=FAST)
def squares(change):
    """Return |column|^2 (n_outputs,) of a change (d, n_outputs), in float64."""
    d, n_outputs = change.shape
    out = np.zeros(n_outputs)
    if n_outputs == 1:
        flat, s = change.reshape(-1), 0.0
        for j in range(d):
            s += float(flat[j]) * float(flat[j])
        out[0] = s
        return out
    for j in range(d):
        for k in range(n_outputs):
            out[k] += float(change[j, k]) * float(change[j, k])
    return out


@njit(cache=True, nogil=True, fastmath=FAST)
def advance(w, change, eta, mean, share):
    """w += eta change, one eta (n_outputs,) per column; mean += share (w - mean)."""
    d, n_outputs = w.shape
    step, part = eta.astype(w.dtype), w.dtype.type(share)
    rest = w.dtype.type(1) - part  # 0 where the mean starts anew: it is w then, to the bit
    if n_outputs == 1:
        flat, move, s, average = w.reshape(-1), change.reshape(-1), step[0], mean.reshape(-1)
        for j in range(d):
            flat[j] += s * move[j]
            average[j] = rest * average[j] + part * flat[j]
        return
    for j in range(d):
        for k in range(n_outputs):
            w[j, k] += step[k] * change[j, k]
            mean[j, k] = rest * mean[j, k] + part * w[j, k]
