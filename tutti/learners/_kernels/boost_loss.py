"""Gradients of the losses of boosting, row by row: float32 results that do not depend on who holds the row.

No fastmath: a row gives the same bits in the vectorised part of a loop and in the rest of it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner

CHUNK = 512
POISSON_STEP = 0.7
"""Most that a tree of Poisson boosting adds to a logarithm, before the learning rate: XGBoost's default."""
_STEEPEST = math.exp(POISSON_STEP)
GAMMA_STEP = 1.0
"""That of gamma boosting: steps up are never longer, and a longer one down could make the loss larger."""
BINARY, SOFTMAX, SQUARED, ABSOLUTE, QUANTILE, POISSON, GAMMA = range(7)


@inner(error_model="numpy")
def _exp(z, e, bits, power):
    """e = exp(z) for z <= 0 in float32, 0 below -80: 2^k by the exponent's bits and a polynomial of degree 7."""
    for i in range(len(z)):
        x = (z[i] if z[i] > np.float32(-80) else np.float32(-80)) * np.float32(1.44269504)
        k = np.floor(x + np.float32(0.5))
        t = (x - k) * np.float32(0.69314718)
        p = np.float32(1 / 720) + t * np.float32(1 / 5040)
        p = np.float32(1 / 24) + t * (np.float32(1 / 120) + t * p)
        p = np.float32(0.5) + t * (np.float32(1 / 6) + t * p)
        e[i] = np.float32(1) + t * (np.float32(1) + t * p)
        bits[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
    for i in range(len(z)):
        e[i] *= power[i]


@njit(cache=True, nogil=True, error_model="numpy")
def binary(f, y, weight, g, h, loss):
    """Log loss of two classes: g = w (p - y), h = w p (1 - p), loss = w ln(1 + exp(-margin)).

    Parameters
    ----------
    f : (n,) log odds.   y : (n,) 0 or 1.   weight : (n,) or empty.   g, h, loss : (n,) float32, written.
    """
    e, s = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    power, u = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    bits = power.view(np.int32)
    n = len(f)
    for lo in range(0, n, CHUNK):
        m = min(CHUNK, n - lo)
        _margins(f[lo : lo + m], u[:m], s[:m])
        _exp(s[:m], e[:m], bits[:m], power[:m])
        _logistic(e[:m], u[:m], y[lo : lo + m], g[lo : lo + m], h[lo : lo + m])
        _log_loss(e[:m], u[:m], y[lo : lo + m], loss[lo : lo + m])
        if len(weight) > 0:
            _weigh(weight, g, h, loss, lo, m)


@inner(error_model="numpy")
def _margins(f, u, z):
    for i in range(len(f)):
        u[i] = f[i]
        z[i] = -abs(np.float32(f[i]))


@inner(error_model="numpy")
def _logistic(e, u, y, g, h):
    one = np.float32(1)
    for i in range(len(e)):
        s = one / (one + e[i])
        r = e[i] * s
        g[i] = (s if u[i] >= np.float32(0) else r) - np.float32(y[i])
        h[i] = s * r


@inner(error_model="numpy")
def _log_loss(e, u, y, loss):
    """ln(1 + x) = 2 artanh(x / (2 + x)), of which 2e-8 are left out."""
    for i in range(len(e)):
        a = e[i] / (np.float32(2) + e[i])
        b = a * a
        q = np.float32(1 / 11) + b * (np.float32(1 / 13) + b * np.float32(1 / 15))
        q = np.float32(1 / 5) + b * (np.float32(1 / 7) + b * (np.float32(1 / 9) + b * q))
        q = np.float32(2) * a * (np.float32(1) + b * (np.float32(1 / 3) + b * q))
        loss[i] = q + (u[i] if u[i] > np.float32(0) else np.float32(0)) - u[i] * np.float32(y[i])


@njit(inline="always")
def _weigh(weight, g, h, loss, lo, m):
    for i in range(lo, lo + m):
        w = np.float32(weight[i])
        g[i] *= w
        h[i] *= w
        loss[i] *= w


@njit(cache=True, nogil=True, error_model="numpy")
def regression(code, alpha, f, y, weight, g, h, loss):
    """Squared, absolute, quantile, Poisson and gamma loss (f is the logarithm of the mean of the last two).

    The hessian of the Poisson loss is the largest within a step: with that at its beginning, a leaf whose targets are
    many times their mean would step so far that exp overflows.  So every leaf makes the loss smaller.

    Source: count:poisson of XGBoost (Chen, Guestrin 2016), ``max_delta_step``.
    """
    n = len(f)
    if code == SQUARED:
        for i in range(n):
            r = f[i] - y[i]
            g[i] = r
            h[i] = 1
            loss[i] = 0.5 * r * r
    elif code == POISSON:
        for i in range(n):
            mean = math.exp(f[i])
            g[i] = mean - y[i]
            h[i] = _STEEPEST * mean
            loss[i] = mean - y[i] * f[i]
    elif code == GAMMA:
        for i in range(n):
            ratio = y[i] * math.exp(-f[i])
            g[i] = 1.0 - ratio
            h[i] = ratio
            loss[i] = ratio + f[i]
    else:
        for i in range(n):
            r = y[i] - f[i]
            up = alpha if code == QUANTILE else 0.5
            slope = up if r > 0 else (up - 1.0 if r < 0 else 0.0)
            scale = 1.0 if code == QUANTILE else 2.0
            g[i] = -scale * slope
            h[i] = 1
            loss[i] = scale * slope * r
    if len(weight) > 0:
        _weigh(weight, g, h, loss, 0, n)


@njit(cache=True, nogil=True, error_model="numpy")
def softmax(f, y, weight, g, h, loss):
    """Log loss of K classes: g_k = w (p_k - [y = k]), h_k = w p_k (1 - p_k) K / (K - 1); f, g and h are (K, n).

    Source of the factor: Friedman (2001), "Greedy function approximation".
    """
    n_classes, n = f.shape
    factor = n_classes / (n_classes - 1.0)
    p = np.empty(n_classes)
    for i in range(n):
        top = f[0, i]
        for k in range(1, n_classes):
            top = max(top, f[k, i])
        total = 0.0
        for k in range(n_classes):
            p[k] = math.exp(f[k, i] - top)
            total += p[k]
        w = weight[i] if len(weight) > 0 else 1.0
        for k in range(n_classes):
            q = p[k] / total
            g[k, i] = w * (q - (1.0 if y[i] == k else 0.0))
            h[k, i] = w * factor * q * (1.0 - q)
        loss[i] = w * (math.log(total) + top - f[np.int64(y[i]), i])


@njit(cache=True, nogil=True)
def keys_of(residual, keys):
    """keys = the residuals as whole numbers in the same order."""
    r = np.empty(1)
    bits = r.view(np.int64)
    for i in range(len(residual)):
        r[0] = residual[i] + 0.0  # no negative zero
        b = bits[0]
        keys[i] = np.uint64(b) ^ (np.uint64(0xFFFFFFFFFFFFFFFF) if b < 0 else np.uint64(1) << np.uint64(63))


@njit(cache=True, nogil=True)
def count_digits(n_leaves, idx, starts, stops, keys, whole, shift, prefix, counts):
    """counts (n_leaves, 256) = weight of the rows of each leaf by the eight bits of their keys above ``shift``.

    Rows whose higher bits are not ``prefix`` of their leaf are left out.  whole (n,) int64 weights or empty.
    """
    counts[:] = 0
    s = np.uint64(shift)
    for k in range(n_leaves):
        for r in range(starts[k], stops[k]):
            i = idx[r]
            top = keys[i] >> s
            if (top >> np.uint64(8)) == prefix[k]:
                counts[k, top & np.uint64(255)] += whole[i] if len(whole) > 0 else 1


@njit(cache=True, nogil=True)
def values_of(keys):
    """The numbers that `keys_of` wrote as keys."""
    out = np.empty(len(keys))
    bits = out.view(np.int64)
    top = np.uint64(1) << np.uint64(63)
    for k in range(len(keys)):
        bits[k] = np.int64(keys[k] ^ top) if keys[k] >= top else np.int64(~keys[k])
    return out
