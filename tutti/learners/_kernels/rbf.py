"""The rbf kernel of a block of products, in one pass and in place."""

from __future__ import annotations

import numpy as np
from numba import njit

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST = np.float32(-87.0)  # exp of it is the smallest that is not denormal
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: added and taken off, it leaves a whole number
_C2, _C3, _C4 = np.float32(0.5), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6 = np.float32(1 / 120), np.float32(1 / 720)


@njit(cache=True, nogil=True)
def rbf(k, scale, left, right):
    """k_ij = exp(min(scale k_ij - left_i - right_j, 0)) in float32, to a few units in the last place.

    exp(v) = 2^n exp(r) with n = round(v / ln 2): a polynomial, and n added to the bits of the exponent.

    Parameters
    ----------
    k : (m, n) float32, changed in place.   scale : float32.   left : (m,), right : (n,) float32.
    """
    power = np.empty(k.shape[1], np.float32)
    bits = power.view(np.int32)
    for i in range(k.shape[0]):
        row, own = k[i], left[i]
        for j in range(k.shape[1]):
            v = max(min(scale * row[j] - own - right[j], np.float32(0)), _LEAST)
            n = (v * _LOG2E + _ROUND) - _ROUND
            r = (v - n * _LN2_HIGH) - n * _LN2_LOW
            p = _C5 + r * _C6
            p = _C4 + r * p
            p = _C3 + r * p
            p = _C2 + r * p
            row[j] = (np.float32(1) + r) + (r * r) * p
            bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
        for j in range(k.shape[1]):
            row[j] *= power[j]
