"""Sequential minimal optimisation on a small working set, and the rows of kernels that it moves.

    max  sum_v p_v b_v - 1/2 sum_vw b_v b_w K(v, w),   lo_v <= b_v <= hi_v,   sum_v b_v fixed;   f_v = p_v - (K b)_v

A step moves the pair that gains most to second order: b_i up and b_j down by s, f -= s (K_i - K_j).

Source: Fan, Chen, Lin (2005), "Working set selection using second order information for training SVM".
"""

from __future__ import annotations

import numpy as np
from numba import njit

_TINY = 1e-12  # instead of a curvature that is not positive, as libsvm has it


@njit(cache=True, nogil=True)
def smo(kernel, diagonal, low, high, beta, f, tol, most):
    """Move ``beta`` and ``f`` until max f over those that may rise - min f over those that may fall < tol.

    Returns the steps made, ``most`` at most.

    Parameters
    ----------
    kernel : (q, q) of the set, float32 or float64.   diagonal, low, high : (q,).   beta, f : (q,), changed in place.
    """
    q = len(beta)
    for step in range(most):
        i, top = -1, -np.inf
        for t in range(q):
            if beta[t] < high[t] and f[t] > top:
                i, top = t, f[t]
        if i < 0:
            return step
        j, best, bottom = -1, 0.0, np.inf
        row, own = kernel[i], diagonal[i]
        for t in range(q):
            if beta[t] > low[t]:
                bottom = min(bottom, f[t])
                rise = top - f[t]
                if rise > 0:
                    curve = own + diagonal[t] - 2.0 * row[t]
                    gain = rise * rise / (curve if curve > 0 else _TINY)
                    if gain > best:
                        j, best = t, gain
        if j < 0 or top - bottom < tol:
            return step
        curve = own + diagonal[j] - 2.0 * row[j]
        s = (top - f[j]) / (curve if curve > 0 else _TINY)
        s = min(s, high[i] - beta[i], beta[j] - low[j])
        beta[i] = high[i] if s == high[i] - beta[i] else beta[i] + s
        beta[j] = low[j] if s == beta[j] - low[j] else beta[j] - s
        other = kernel[j]
        for t in range(q):
            f[t] -= s * (np.float64(row[t]) - np.float64(other[t]))
    return most


@njit(cache=True, nogil=True)
def gather(rows, slots, columns, out, first, last):
    """out = rows[slots][:, columns], of slots first to last."""
    for i in range(first, last):
        row = rows[slots[i]]
        for j in range(len(columns)):
            out[i, j] = row[columns[j]]


@njit(cache=True, nogil=True)
def subtract(rows, slots, change, f, first, last):
    """f -= sum_k change[k] rows[slots[k]] in columns first to last, summed in float64 over four rows at a time."""
    m = len(slots)
    for k in range(0, m - m % 4, 4):
        a, b, c, d = change[k], change[k + 1], change[k + 2], change[k + 3]
        r0, r1, r2, r3 = rows[slots[k]], rows[slots[k + 1]], rows[slots[k + 2]], rows[slots[k + 3]]
        for t in range(first, last):
            f[t] -= a * r0[t] + b * r1[t] + c * r2[t] + d * r3[t]
    for k in range(m - m % 4, m):
        a, r0 = change[k], rows[slots[k]]
        for t in range(first, last):
            f[t] -= a * r0[t]
