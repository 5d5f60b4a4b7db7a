"""From the margins of a few hundred rows to losses, dual points and curvatures, without a call of libm.

Arrays of one chunk stay in the first cache.  NaN and infinity pass through (no `nnan` in the flags), so that a broken
value in X shows in the sums.

What kernels call of this with fast arithmetic is always put into its caller (``forceinline``).  Else there are two
translations, its own and the one beside the caller: a process that has compiled them would call the one, a process
that has loaded the caller from the cache the other, and they need not agree in the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from tutti.learners._kernels.inner import inner

FAST = {"reassoc", "nsz", "contract", "arcp", "afn"}
CHUNK = 256
"""Most rows of a chunk: margins, link and gradient follow each other while the chunk lies in the second cache."""
ROW = CHUNK + 24
"""Length of a row of scratch memory: rows a power of two apart would share the same few sets of the first cache."""
LOSSES = {"logistic": 0, "hinge": 1, "squared_hinge": 2, "squared": 3}


def _exp_neg_abs(z, e, m):
    """e[:m] = exp(-|z[:m]|)."""


@overload(_exp_neg_abs)
def _exp_neg_abs_of(z, e, m):
    if z.dtype == types.float32:

        def single(z, e, m):
            # 2^k by the exponent bits and a polynomial of degree 7: 1.5e-7, vectorised, unlike libm's
            power = np.empty(CHUNK, np.float32)
            bits = power.view(np.int32)
            for i in range(m):
                x = max(-abs(z[i]), np.float32(-80)) * np.float32(1.44269504)
                k = np.floor(x + np.float32(0.5))
                t = (x - k) * np.float32(0.69314718)
                p = np.float32(1 / 720) + t * np.float32(1 / 5040)
                p = np.float32(1 / 24) + t * (np.float32(1 / 120) + t * p)
                p = np.float32(0.5) + t * (np.float32(1 / 6) + t * p)
                e[i] = np.float32(1) + t * (np.float32(1) + t * p)
                bits[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
            for i in range(m):
                e[i] *= power[i]

        return single

    def double(z, e, m):
        # the same with a polynomial of degree 12: 1.7e-16, and |z| roundings of ln 2; no branch for rows to miss
        power = np.empty(CHUNK, np.float64)
        bits = power.view(np.int64)
        for i in range(m):
            x = max(-abs(z[i]), -700.0)
            k = np.floor(x * 1.4426950408889634 + 0.5)
            t = x - k * 0.6931471805599453
            p = 1 / 39916800 + t * (1 / 479001600)
            p = 1 / 362880 + t * (1 / 3628800 + t * p)
            p = 1 / 5040 + t * (1 / 40320 + t * p)
            p = 1 / 120 + t * (1 / 720 + t * p)
            p = 1 / 6 + t * (1 / 24 + t * p)
            e[i] = 1.0 + t * (1.0 + t * (0.5 + t * p))
            bits[i] = (np.int64(np.int32(k)) + np.int64(1023)) << np.int64(52)
        for i in range(m):
            e[i] *= power[i]

    return double


def _log1p(x):
    """ln(1 + x) for 0 <= x <= 1."""


@overload(_log1p, inline="always")
def _log1p_of(x):
    if x == types.float32:

        def single(x):
            # ln(1 + x) = 2 artanh(x / (2 + x)); the first term left out is 2e-8 of the sum
            a = x / (np.float32(2) + x)
            s = a * a
            p = np.float32(1 / 11) + s * (np.float32(1 / 13) + s * np.float32(1 / 15))
            p = np.float32(1 / 5) + s * (np.float32(1 / 7) + s * (np.float32(1 / 9) + s * p))
            return np.float32(2) * a * (np.float32(1) + s * (np.float32(1 / 3) + s * p))

        return single

    def double(x):
        # ln(1 + x) = ln c + 2 artanh((1 + x - c) / (1 + x + c)) with c = 1 or 2; the first term left out is 3e-18
        far = x > 0.41421356
        a = (x - 1.0 if far else x) / (x + (3.0 if far else 2.0))
        s = a * a
        p = 1 / 19 + s * (1 / 21)
        p = 1 / 15 + s * (1 / 17 + s * p)
        p = 1 / 11 + s * (1 / 13 + s * p)
        p = 1 / 7 + s * (1 / 9 + s * p)
        p = 1 / 3 + s * (1 / 5 + s * p)
        return (0.6931471805599453 if far else 0.0) + 2.0 * a * (1.0 + s * p)

    return double


def targets(y, lo, m, positive, table, sample, sign, c):
    """Fill sign[:m] (+-1, or the target of a regression) and c[:m] = table[y] * sample weight."""


@overload(targets)
def _targets_of(y, lo, m, positive, table, sample, sign, c):
    if isinstance(y.dtype, types.Integer):

        def classes(y, lo, m, positive, table, sample, sign, c):
            for i in range(m):
                code = y[lo + i]
                sign[i] = 1 if code == positive else -1
                c[i] = table[code]
            if len(sample) > 0:
                for i in range(m):
                    c[i] *= sample[lo + i]

        return classes

    def values(y, lo, m, positive, table, sample, sign, c):
        for i in range(m):
            sign[i] = y[lo + i]
            c[i] = table[0]
        if len(sample) > 0:
            for i in range(m):
                c[i] *= sample[lo + i]

    return values


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def logistic(z, sign, c, k, r, e, m, sums):
    """k = C p y, r = C p (1 - p) with p = 1 / (1 + e^m); sums of loss, k y, loss again and C e^-m per side."""
    real = z.dtype.type
    zero, one = real(0), real(1)
    for i in range(m):
        z[i] *= sign[i]
    _exp_neg_abs(z, e, m)
    loss, dual, curve = zero, zero, zero
    loss1, dual1, curve1 = zero, zero, zero
    for i in range(m):
        x = e[i]
        s = one / (one + x)
        above = z[i] > zero
        p = c[i] * (x * s if above else s)
        steep = c[i] * (x if above else one / max(x, real(1e-35)))
        cost = c[i] * (max(-z[i], zero) + _log1p(x))
        side = (sign[i] + one) * real(0.5)
        k[i] = p * sign[i]
        r[i] = c[i] * x * s * s
        loss += cost
        loss1 += cost * side
        dual += p
        dual1 += p * side
        curve += steep
        curve1 += steep * side
    _add(sums, loss, loss1, dual, dual1, loss, loss1, curve, curve1)


@inner(fastmath=FAST, error_model="numpy")
def hinge(z, sign, c, k, r, h, window, m, sums):
    """alpha = C a, a = clip(1/2 + u / 2h, 0, 1) with u = 1 - m: the hinge smoothed where |u| < h.

    r = C / 2 window where |u| < window: curvature is the density of rows at the kink, which a wider window than h
    estimates with less noise from a sample.
    Sums per side: true loss, alpha, smoothed loss C (a u - h (a - 1/2)^2), rows strictly inside the box.
    """
    real = z.dtype.type
    zero, one = real(0), real(1)
    half, near = one / (h + h), real(0.5) / window
    loss, dual, smooth, inside = zero, zero, zero, zero
    loss1, dual1, smooth1, inside1 = zero, zero, zero, zero
    for i in range(m):
        u = one - sign[i] * z[i]
        free = real(0.5) + u * half
        a = min(max(free, zero), one)
        within = one if (free > zero) and (free < one) and (c[i] > zero) else zero
        cost = c[i] * max(u, zero)
        soft = c[i] * (a * u - h * (a - real(0.5)) * (a - real(0.5)))
        side = (sign[i] + one) * real(0.5)
        k[i] = c[i] * a * sign[i]
        r[i] = c[i] * near if abs(u) < window else zero
        loss += cost
        loss1 += cost * side
        dual += c[i] * a
        dual1 += c[i] * a * side
        smooth += soft
        smooth1 += soft * side
        inside += within
        inside1 += within * side
    _add(sums, loss, loss1, dual, dual1, smooth, smooth1, inside, inside1)


@inner(fastmath=FAST, error_model="numpy")
def squared_hinge(z, sign, c, k, r, m, sums):
    """k = 2 C max(0, 1 - m) y, r = 2 C where m < 1; sums of loss, k y, loss again and 0 per side."""
    real = z.dtype.type
    zero, one, two = real(0), real(1), real(2)
    loss, dual, loss1, dual1 = zero, zero, zero, zero
    for i in range(m):
        u = max(one - sign[i] * z[i], zero)
        a = two * c[i] * u
        side = (sign[i] + one) * real(0.5)
        k[i] = a * sign[i]
        r[i] = two * c[i] if u > zero else zero
        loss += c[i] * u * u
        loss1 += c[i] * u * u * side
        dual += a
        dual1 += a * side
    _add(sums, loss, loss1, dual, dual1, loss, loss1, zero, zero)


@inner(fastmath=FAST, error_model="numpy")
def squared(z, y, c, k, r, m, sums):
    """k = C (y - z), r = C; sums of 1/2 C (y - z)^2, k, the loss again and C, all under side 1."""
    real = z.dtype.type
    loss, total, weight = real(0), real(0), real(0)
    for i in range(m):
        residual = y[i] - z[i]
        k[i] = c[i] * residual
        r[i] = c[i]
        loss += real(0.5) * k[i] * residual
        total += k[i]
        weight += c[i]
    _add(sums, loss, loss, total, total, loss, loss, weight, weight)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _add(sums, a, a1, b, b1, c, c1, d, d1):
    """Add four sums over all rows of a chunk, and over those of side 1, to ``sums`` (2 sides, 4)."""
    sums[0, 0] += a - a1
    sums[1, 0] += a1
    sums[0, 1] += b - b1
    sums[1, 1] += b1
    sums[0, 2] += c - c1
    sums[1, 2] += c1
    sums[0, 3] += d - d1
    sums[1, 3] += d1


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def link(code, z, sign, c, k, r, e, h, window, m, sums):
    """Run the link of loss ``code`` (see `LOSSES`) on the first m rows of a chunk."""
    if code == 0:
        logistic(z, sign, c, k, r, e, m, sums)
    elif code == 1:
        hinge(z, sign, c, k, r, h, window, m, sums)
    elif code == 2:
        squared_hinge(z, sign, c, k, r, m, sums)
    else:
        squared(z, sign, c, k, r, m, sums)
