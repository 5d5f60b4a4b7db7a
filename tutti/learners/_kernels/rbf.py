"""The rbf kernel of a block of products, in one pass, in place or summed up; and what it needs of the rows."""

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

    Parameters
    ----------
    k : (m, n) float32, changed in place.   scale : float32.   left : (m,), right : (n,) float32.
    """
    power = np.empty(k.shape[1], np.float32)
    for i in range(k.shape[0]):
        _factors(k[i], scale, left[i], right, power)
        for j in range(k.shape[1]):
            k[i, j] *= power[j]


@njit(cache=True, nogil=True)
def rbf_sums(k, scale, left, right, coefficients, sums):
    """sums_i += sum_j exp(min(scale k_ij - left_i - right_j, 0)) coefficients_j, added up in float64.

    Parameters
    ----------
    k : (m, n) float32; what is left in it has no meaning.   scale, left, right : as for `rbf`.
    coefficients : (n,), sums : (m,) float64.
    """
    power = np.empty(k.shape[1], np.float32)
    for i in range(k.shape[0]):
        _factors(k[i], scale, left[i], right, power)
        sums[i] += _sum(k[i], power, coefficients)


@njit(cache=True, nogil=True)
def squares(x, found):
    """found_i = |x_i|^2, added up in float64.

    Parameters
    ----------
    x : (m, n) float32.   found : (m,) float64.
    """
    for i in range(x.shape[0]):
        found[i] = _square(x[i])


@njit(nogil=True)
def _factors(row, scale, own, right, power):
    """row_j power_j = exp(min(scale row_j - own - right_j, 0)).

    exp(v) = 2^n exp(r) with n = round(v / ln 2): a polynomial, and n added to the bits of the exponent.
    """
    bits = power.view(np.int32)
    for j in range(len(row)):
        v = max(min(scale * row[j] - own - right[j], np.float32(0)), _LEAST)
        n = (v * _LOG2E + _ROUND) - _ROUND
        r = (v - n * _LN2_HIGH) - n * _LN2_LOW
        p = _C5 + r * _C6
        p = _C4 + r * p
        p = _C3 + r * p
        p = _C2 + r * p
        row[j] = (np.float32(1) + r) + (r * r) * p
        bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)


@njit(nogil=True, fastmath={"reassoc"}, forceinline=True)  # as many sums side by side as the processor has room for
def _sum(row, power, coefficients):
    total = 0.0
    for j in range(len(row)):
        total += np.float64(row[j] * power[j]) * coefficients[j]
    return total


@njit(nogil=True, fastmath={"reassoc"})
def _square(row):
    total = 0.0
    for j in range(len(row)):
        total += np.float64(row[j]) * np.float64(row[j])
    return total
