"""Which split of a node gains most: the same comparison of the same whole numbers on every rank.

The gain of a split into L and R is  G_L^2 / (H_L + l2) + G_R^2 / (H_R + l2) - G^2 / (H + l2); where a column is
monotone, each side has its value -G / (H + l2) moved into the bounds of its node, and the gain is what that saves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.boost import (
    BIN,
    CATEGORICAL,
    DEPTH,
    FEATURE,
    GAIN,
    HIGH,
    LEFT,
    LEFT_C,
    LEFT_G,
    LEFT_H,
    LEFT_VALUE,
    LOW,
    MISSING_LEFT,
    N_FREE,
    N_LEAVES,
    OPEN,
    RIGHT_VALUE,
    SIGN,
    SLOT,
    C,
    G,
    H,
)
from tutti.learners._kernels.boost_groups import allowed
from tutti.learners._kernels.inner import inner

LOW_HALF = 0xFFFFFFFF
L2, LEAST_HESSIAN, LEAST_ROWS, LEAST_GAIN, MAX_DEPTH, MAX_LEAVES, BEST_FIRST, SMOOTH = range(8)
N_RULES = 8
"""Words of ``rules``, float64."""
_CLEARLY = 1 + 2.0**-15
"""Of equally good splits the first one is taken, though sums are rounded by chance."""


@njit(inline="always", error_model="numpy")
def _value(g, h, l2, low, high):
    """The value of a leaf that is allowed and saves most."""
    bottom = h + l2
    v = -g / bottom if bottom > 0 else 0.0
    return min(max(v, low), high)


@njit(inline="always", error_model="numpy")
def _saved(g, h, l2, v):
    """Twice what the value v saves of the loss: G^2 / (H + l2) if v is free."""
    return -(2.0 * g + (h + l2) * v) * v


@inner(error_model="numpy")
def _free_gains(gl, hl, g, h, l2, least, now, gain):
    """`_gains` without bounds and counts: a loop that vectorises."""
    for b in range(len(gl)):
        gr, hr = g - gl[b], h - hl[b]
        p, q = hl[b] + l2, hr + l2
        found = (gl[b] * gl[b] * q + gr * gr * p) / (p * q) - now
        gain[b] = found if min(hl[b], hr) >= least else -1.0


@inner(error_model="numpy")
def _bounded_gains(gl, hl, g, h, l2, least, low, high, now, gain):
    """`_free_gains` where the values of both sides are moved into bounds; NaN, which gains nothing, where 0 / 0."""
    for b in range(len(gl)):
        gr, hr = g - gl[b], h - hl[b]
        p, q = hl[b] + l2, hr + l2
        u, v = min(max(-gl[b] / p, low), high), min(max(-gr / q, low), high)
        found = -(2.0 * gl[b] + p * u) * u - (2.0 * gr + q * v) * v - now
        gain[b] = found if min(hl[b], hr) >= least else -1.0


@inner(error_model="numpy")
def _gains(gl, hl, cl, first, stop, g, h, c, rules, sign, low, high, now, gain):
    """gain[first:stop] over ``now`` of splits after each code; -1 where a side is too light."""
    l2, least, rows = rules[L2], rules[LEAST_HESSIAN], rules[LEAST_ROWS]
    if sign == 0:
        if low == -np.inf and high == np.inf:
            _free_gains(gl[first:stop], hl[first:stop], g, h, l2, least, now, gain[first:stop])
        else:
            _bounded_gains(gl[first:stop], hl[first:stop], g, h, l2, least, low, high, now, gain[first:stop])
        if rows > 0:
            for b in range(first, stop):
                gain[b] = gain[b] if cl[b] >= rows and c - cl[b] >= rows else -1.0
        return
    for b in range(first, stop):
        gr, hr = g - gl[b], h - hl[b]
        u, v = _value(gl[b], hl[b], l2, low, high), _value(gr, hr, l2, low, high)
        fine = (hl[b] >= least) & (hr >= least) & (cl[b] >= rows) & (c - cl[b] >= rows) & ((v - u) * sign >= 0)
        gain[b] = _saved(gl[b], hl[b], l2, u) + _saved(gr, hr, l2, v) - now if fine else -1.0


@njit(inline="always", error_model="numpy")
def _best(gain, first, stop, bar):
    """The first code with more than ``bar``, than which no later one gains clearly more; -1 if there is none."""
    code = -1
    for b in range(first, stop):
        if gain[b] > bar:
            bar, code = gain[b] * _CLEARLY, b
    return code


@njit(inline="always")
def _keep(ints, reals, p, gain, j, code, missing_left, categorical):
    reals[p, GAIN] = gain
    ints[p, FEATURE], ints[p, BIN], ints[p, MISSING_LEFT], ints[p, CATEGORICAL] = j, code, missing_left, categorical


@njit(inline="always", error_model="numpy")
def _prefix(cells, plane, at, n, scales, gl, hl, cl, counted, packed, rows):
    """Sums of the codes 1..b, added to ``packed`` and ``rows``, as exact float64; returns nothing."""
    for b in range(1, n + 1):
        packed += cells[at + b]
        gl[b] = np.float64(packed >> 32) * scales[0]
        hl[b] = np.float64(packed & LOW_HALF) * scales[1]
    if counted:
        for b in range(1, n + 1):
            rows += cells[plane + at + b]
            cl[b] = np.float64(rows)


@njit(inline="always", error_model="numpy")
def _numeric(cells, plane, at, n, j, p, now, ints, reals, scales, rules, sign, gl, hl, cl, gain, counted):
    """Try every cut of an ordered column, missing values on either side."""
    missing = cells[at]
    rows = cells[plane + at] if counted else np.int64(0)
    g, h = np.float64(ints[p, G]) * scales[0], np.float64(ints[p, H]) * scales[1]
    c = np.float64(ints[p, C])
    low, high = reals[p, LOW], reals[p, HIGH]
    there, one = missing != 0 or rows != 0, np.int64(1)
    for missing_left in range(2 if there else 1):
        _prefix(cells, plane, at, n, scales, gl, hl, cl, counted, missing * missing_left, rows * missing_left)
        stop = n + 1 if there and missing_left == 0 else n
        _gains(gl, hl, cl, one, stop, g, h, c, rules, sign, low, high, now, gain)
        code = _best(gain, 1, stop, reals[p, GAIN] * _CLEARLY)
        if code > 0:
            left = missing_left if there else np.int64(hl[code] + hl[code] > h)
            _keep(ints, reals, p, gain[code], j, code, left, 0)


@inner(error_model="numpy")
def _category_order(cells, plane, at, n, scales, rules, order, ratio, counted):
    """Write the codes 0..n that have rows into ``order`` by G / (H + smooth), ties by code; return their number."""
    m = 0
    for b in range(n + 1):
        if cells[at + b] != 0 or (counted and cells[plane + at + b] != 0):
            x = cells[at + b]
            h = np.float64(x & LOW_HALF) * scales[1]
            r = np.float64(x >> 32) * scales[0] / max(h + rules[SMOOTH], 1e-300)
            k = m
            while k > 0 and ratio[k - 1] > r:
                ratio[k], order[k] = ratio[k - 1], order[k - 1]
                k -= 1
            ratio[k], order[k] = r, b
            m += 1
    return m


@njit(inline="always", error_model="numpy")
def _categories(cells, plane, at, n, j, p, now, ints, reals, scales, rules, order, gl, hl, cl, gain, counted):
    """Try the sets of categories that come first in the order of their mean gradient; missing is one of them.

    For a convex loss the best of all sets is among these (Fisher 1958).
    """
    m = _category_order(cells, plane, at, n, scales, rules, order, gain, counted)
    packed, rows = np.int64(0), np.int64(0)
    for k in range(m):
        packed += cells[at + order[k]]
        gl[k] = np.float64(packed >> 32) * scales[0]
        hl[k] = np.float64(packed & LOW_HALF) * scales[1]
        if counted:
            rows += cells[plane + at + order[k]]
            cl[k] = np.float64(rows)
    g, h = np.float64(ints[p, G]) * scales[0], np.float64(ints[p, H]) * scales[1]
    c, low, high, no = np.float64(ints[p, C]), reals[p, LOW], reals[p, HIGH], np.int64(0)
    _gains(gl, hl, cl, no, m - 1, g, h, c, rules, no, low, high, now, gain)
    found = _best(gain, 0, m - 1, reals[p, GAIN] * _CLEARLY)
    if found >= 0:
        _keep(ints, reals, p, gain[found], j, found, 0, 1)


@njit(inline="always", error_model="numpy")
def _settle(cells, plane, n_codes, n_bins, p, ints, reals, scales, rules, signs, go, order, gain, counted):
    """Write down which codes of the chosen column go left, the sums of the left side and the values of both."""
    j = ints[p, FEATURE]
    at, n = j * n_codes, n_bins[j]
    table = go[p]
    table[:] = 0
    if ints[p, CATEGORICAL]:
        _category_order(cells, plane, at, n, scales, rules, order, gain, counted)
        for k in range(ints[p, BIN] + 1):
            table[order[k]] = 1
    else:
        table[0] = ints[p, MISSING_LEFT]
        for b in range(1, ints[p, BIN] + 1):
            table[b] = 1
    packed, rows = np.int64(0), np.int64(0)
    for b in range(n + 1):
        if table[b]:
            packed += cells[at + b]
            rows += cells[plane + at + b] if counted else 0
    if ints[p, CATEGORICAL] and cells[at] == 0:  # no row is missing here: later ones follow the heavier side
        table[0] = np.int64(packed & LOW_HALF) * 2 > ints[p, H]
        ints[p, MISSING_LEFT] = table[0]
    elif ints[p, CATEGORICAL]:
        ints[p, MISSING_LEFT] = table[0]
    ints[p, SIGN] = 0 if ints[p, CATEGORICAL] else signs[j]
    ints[p, LEFT_G], ints[p, LEFT_H], ints[p, LEFT_C] = packed >> 32, packed & LOW_HALF, rows
    l2, low, high = rules[L2], reals[p, LOW], reals[p, HIGH]
    g, h = np.float64(ints[p, G]) * scales[0], np.float64(ints[p, H]) * scales[1]
    gl, hl = np.float64(packed >> 32) * scales[0], np.float64(packed & LOW_HALF) * scales[1]
    reals[p, LEFT_VALUE] = _value(gl, hl, l2, low, high)
    reals[p, RIGHT_VALUE] = _value(g - gl, h - hl, l2, low, high)


@njit(inline="always", error_model="numpy")
def find(p, cells, n_codes, n_bins, categorical, signs, wanted, ints, reals, scales, rules, go, room, counted):
    """Find the best split of node p and open the node, or leave it closed; returns whether it is open."""
    gl, hl, cl, gain = room[0], room[1], room[2], room[3]
    order = np.empty(n_codes, np.int64)
    if not counted:
        cl[:] = 0.0
    d = len(n_bins)
    plane = d * n_codes
    l2 = rules[L2]
    g, h = np.float64(ints[p, G]) * scales[0], np.float64(ints[p, H]) * scales[1]
    now = _saved(g, h, l2, _value(g, h, l2, reals[p, LOW], reals[p, HIGH]))
    reals[p, GAIN] = rules[LEAST_GAIN] + 1e-9 * abs(now) + 1e-300
    ints[p, FEATURE] = -1
    for j in range(d):
        if wanted[j] and n_bins[j] > 0:
            at = j * n_codes
            if categorical[j]:
                _categories(
                    cells, plane, at, n_bins[j], j, p, now, ints, reals, scales, rules, order, gl, hl, cl, gain, counted
                )
            else:
                _numeric(
                    cells, plane, at, n_bins[j], j, p, now, ints, reals, scales, rules, signs[j], gl, hl, cl, gain,
                    counted,
                )  # fmt: skip
    if ints[p, FEATURE] < 0:
        reals[p, GAIN] = 0.0
        return False
    _settle(cells, plane, n_codes, n_bins, p, ints, reals, scales, rules, signs, go, order, gain, counted)
    ints[p, OPEN] = 1
    return True


@njit(inline="always", error_model="numpy")
def _mix(x):
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inner(error_model="numpy")
def _draw_of_marked(key, node, n_wanted, wanted):
    """`draw_columns` among those that are marked: the same ones where all are."""
    rest = 0
    for j in range(len(wanted)):
        rest += wanted[j]
    left = min(n_wanted, rest)
    if left == rest:
        return
    seed = _mix(np.uint64(key) ^ _mix(np.uint64(node)))
    for j in range(len(wanted)):
        if wanted[j]:
            u = np.float64(_mix(seed + np.uint64(j)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            wanted[j] = u * rest < left
            left -= wanted[j]
            rest -= 1


@inner(error_model="numpy")
def draw_columns(key, node, n_wanted, wanted):
    """Mark ``n_wanted`` columns at random, by the number of the node."""
    d = len(wanted)
    wanted[:] = n_wanted >= d
    if n_wanted >= d:
        return
    seed = _mix(np.uint64(key) ^ _mix(np.uint64(node)))
    left = n_wanted
    for j in range(d):  # selection sampling: each set of columns is as likely
        u = np.float64(_mix(seed + np.uint64(j)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        if u * (d - j) < left:
            wanted[j] = 1
            left -= 1


@njit(inline="always", error_model="numpy")
def _totals(cells, n_codes, n_bins, ints, counted):
    packed, rows = np.int64(0), np.int64(0)
    for b in range(n_codes):
        packed += cells[b]
        if counted:
            rows += cells[len(n_bins) * n_codes + b]
    ints[0, G], ints[0, H], ints[0, C] = packed >> 32, packed & LOW_HALF, rows


@njit(cache=True, nogil=True, error_model="numpy")
def choose(batch, ints, reals, state, rules):
    """Write the open nodes that are split next into ``batch``; return their number."""
    room = np.int64(min(rules[MAX_LEAVES] - state[N_LEAVES], np.float64(len(batch))))
    if rules[BEST_FIRST] > 0:
        room = min(room, np.int64(1))
    n = 0
    for p in range(state[0]):  # by gain, ties by number; all of them in the order of their numbers if there is room
        if ints[p, OPEN] == 0:
            continue
        if n < room:
            batch[n] = p
            n += 1
            continue
        if room == 0:
            break
        worst = 0
        for k in range(1, n):
            if reals[batch[k], GAIN] <= reals[batch[worst], GAIN]:
                worst = k
        if reals[p, GAIN] > reals[batch[worst], GAIN]:
            for k in range(worst, n - 1):
                batch[k] = batch[k + 1]
            batch[n - 1] = p
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def decide(
    batch, n_batch, pool, n_codes, n_bins, categorical, signs, n_wanted, key, ints, reals, state, scales, rules, go,
    room, groups,
):  # fmt: skip
    """Find the splits of the children of a batch (the root's where n_batch is 0), then write the next batch.

    Returns its length.  Depth-wise: all open nodes of the level, by gain where not all may be split; best first: one.
    ``groups`` (see `boost_groups`) is None where all columns may meet on a path.
    """
    counted = pool.shape[1] > len(n_bins) * n_codes
    wanted = np.empty(len(n_bins), np.uint8)
    n_children = 2 * n_batch if n_batch > 0 else 1
    for k in range(n_children):
        p = 0
        if n_batch > 0:
            p = ints[batch[k // 2], LEFT] + (k & 1)
        else:
            _totals(pool[0], n_codes, n_bins, ints, counted)
        fits = ints[p, DEPTH] < rules[MAX_DEPTH] and state[N_LEAVES] < rules[MAX_LEAVES]
        if groups is not None:
            groups.parent[p] = batch[k // 2] if n_batch > 0 else -1
        if fits:
            if groups is None:
                draw_columns(key, p, n_wanted, wanted)
            else:
                _draw_of_marked(key, p, allowed(groups, p, ints, wanted), wanted)
            fits = find(
                p, pool[ints[p, SLOT]], n_codes, n_bins, categorical, signs, wanted, ints, reals, scales, rules, go,
                room, counted,
            )  # fmt: skip
        if not fits:
            state[3 + state[N_FREE]] = ints[p, SLOT]
            state[N_FREE] += 1
    return choose(batch, ints, reals, state, rules)
