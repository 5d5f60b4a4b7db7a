"""Rows of an interior-point step (see `_interior`): from a change of margins to that of all that belongs to a row.

A row's hinge has m, a, s, xi > 0 and the equations a s = mu, (C - a) xi = mu; m + xi - s = 1.  The squared hinge has no
C - a and xi = a / 2C instead: ``half`` is 1/2 for it and 0 else, ``boxed`` the other way round.  Arrays are float64,
(H, rows) for H hinges a row; (K, rows) what an output has: K = H, or K = 1, whose change serves all hinges of a row.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner

_EXACT = {"contract", "nsz"}
"""No sum in another order, no product for a quotient: near its bounds a row has but a few digits of what it needs."""


@inner(fastmath=_EXACT, error_model="numpy")
def _inverses(m, a, s, xi, c, live, half, boxed):
    """Return 1 / a, 1 / (C - a), the curvature and the equation's rest over it; zero where C = 0 (not ``live``)."""
    one_a = 1.0 / a if live else 0.0
    one_rest = 1.0 / (c - a) if live and half == 0 else 0.0
    own = half / c if live else 0.0
    curvature = 1.0 / (s * one_a + xi * one_rest + own) if live else 0.0
    return one_a, one_rest, curvature, (1.0 - m - own * a) * curvature


@njit(cache=True, nogil=True, fastmath=_EXACT, error_model="numpy")
def look(z, sign, c, now, seen, mu, half, found, pull, stop, product):
    """Write the changes of a piece of rows, or the products of changes, for the changes z of their outputs.

    Parameters
    ----------
    z : (K, rows).   sign : (H, rows) int8.   c : (rows,).   now : (4, H, rows) m, a, s, xi.
    seen : (2, H, rows) da ds and da dxi of a look before, or None in the first look, at mu = 0.   mu : (K,) target.
    found : first look: (2, H, rows) the products da ds and da dxi; else (4, H, rows) the changes of m, a, s, xi.
    pull : (2 K, rows), first look only: what a unit of mu and what the products add to da, times the sign, by output.
    stop : (K,) largest part of a value that a step of 1 takes away.   product : (3, K) added to.
    """
    n_outputs, n = z.shape
    boxed = 0.0 if half > 0 else 1.0
    taken = np.empty(n + 1)
    bits = taken.view(np.int64)  # in the order of the numbers, all >= 0; vectors find the largest of integers only
    pull[:] = 0.0
    for h in range(len(sign)):
        o = h if n_outputs > 1 else 0
        target = mu[o]
        most = np.int64(0)
        before, slope, bend = 0.0, 0.0, 0.0
        for j in range(n):
            m, a, s, xi = now[0, h, j], now[1, h, j], now[2, h, j], now[3, h, j]
            live = c[j] > 0
            on = 1.0 if live else 0.0
            one_a, one_rest, curvature, extra = _inverses(m, a, s, xi, c[j], live, half, boxed)
            dm = sign[h, j] * z[o, j]
            da = extra - curvature * dm
            p, q = 0.0, 0.0
            if seen is not None:
                p, q = target - seen[0, h, j], target + seen[1, h, j]
                da += (p * one_a - q * one_rest) * curvature
            ds = on * ((p - s * da) * one_a - s)
            dxi = boxed * on * ((q + xi * da) * one_rest - xi)
            most_a, most_s = (
                max(-da * one_a, da * one_rest),
                max(-ds / s if live else 0.0, -dxi / xi if half == 0 else 0.0),
            )
            taken[j] = max(max(most_a, most_s), 0.0)
            rest = boxed * on * (c[j] - a)
            before += on * a * s + rest * xi
            slope += da * (s - boxed * xi) + a * ds + rest * dxi
            bend += da * (ds - dxi)
            if seen is None:
                found[0, h, j], found[1, h, j] = da * ds, da * dxi
                pull[o, j] += sign[h, j] * (one_a - one_rest) * curvature
                pull[n_outputs + o, j] -= sign[h, j] * (da * ds * one_a + da * dxi * one_rest) * curvature
            else:
                found[0, h, j], found[1, h, j], found[2, h, j], found[3, h, j] = dm, da, ds, dxi
        for j in range(n):
            most = max(most, bits[j])
        bits[0] = most
        stop[o] = max(stop[o], taken[0])
        product[0, o] += before
        product[1, o] += slope
        product[2, o] += bend


@njit(cache=True, nogil=True, fastmath=_EXACT, error_model="numpy")
def go_on(now, moves, step, sign, c, offset, half, there, pulls, curvature, sums):
    """Go ``step`` along the changes and sum what certifies the point and makes the next equations.

    Parameters
    ----------
    now, moves, there : (4, H, rows) m, a, s, xi: before, their changes (None: stay), after (written).
    step : (K,).   sign : (H, rows) int8.   c : (rows,).
    offset : (2, rows) what a unit of a costs in the conjugate; None: it earns 1.
    pulls : (H + K, rows) written: a sign of every hinge, then by output the equation's rest times the sign.
    curvature : (K, rows) written.
    sums : (K, 8) added to: loss, a, conjugate for sign -1 and for sign +1, in turn; the rest times the sign; pairs.
    """
    n_hinges, n = sign.shape
    n_outputs = len(curvature)
    boxed = 0.0 if half > 0 else 1.0
    curvature[:] = 0.0
    pulls[n_hinges:] = 0.0
    for h in range(n_hinges):
        o = h if n_outputs > 1 else 0
        t = step[o]
        loss, loss1, dual, dual1, phi, phi1, rest, pairs = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(n):
            m, a, s, xi = now[0, h, j], now[1, h, j], now[2, h, j], now[3, h, j]
            if moves is not None:
                m, a = m + t * moves[0, h, j], a + t * moves[1, h, j]
                s, xi = s + t * moves[2, h, j], xi + t * moves[3, h, j]
            there[0, h, j], there[1, h, j], there[2, h, j], there[3, h, j] = m, a, s, xi
            live = c[j] > 0
            on = 1.0 if live else 0.0
            _, _, bend, extra = _inverses(m, a, s, xi, c[j], live, half, boxed)
            curvature[o, j] += bend
            pulls[h, j] = a * sign[h, j]
            pulls[n_hinges + o, j] += extra * sign[h, j]
            side = 1.0 if sign[h, j] > 0 else 0.0
            u = max(1.0 - m, 0.0)
            cost = c[j] * u * (boxed + (1.0 - boxed) * u)
            price = -1.0 if offset is None else offset[h, j]
            conjugate = a * (price + (0.5 * half * a / c[j] if live else 0.0))
            loss += cost
            loss1 += cost * side
            dual += a
            dual1 += a * side
            phi += conjugate
            phi1 += conjugate * side
            rest += extra * sign[h, j]
            pairs += on * (1.0 + boxed)
        sums[o, 0] += loss - loss1
        sums[o, 1] += loss1
        sums[o, 2] += dual - dual1
        sums[o, 3] += dual1
        sums[o, 4] += phi - phi1
        sums[o, 5] += phi1
        sums[o, 6] += rest
        sums[o, 7] += pairs
