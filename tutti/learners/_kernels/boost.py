"""Growing a boosted tree: rows to nodes, codes to histograms of whole numbers.

A cell of a histogram is one int64: the sum of the gradients in its upper 32 bits, of the hessians in the lower ones, so
one addition counts a row.  Sums are exact: whoever adds them, in whatever order, gets the same bits.

Rows of a node are idx[START:STOP]; a node's histogram lies in pool[SLOT], one plane of cells (n_features, n_codes) and,
where rows are counted, a second plane of counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.cells import add_eight
from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.prefetch import prefetch

FEATURE, BIN, MISSING_LEFT, CATEGORICAL, LEFT, SLOT, START, STOP, DEPTH = range(9)
G, H, C, LEFT_G, LEFT_H, LEFT_C, OPEN, SIGN = range(9, 17)
N_INTS = 17
"""Columns of ``ints``, a row per node; G.. are whole sums over the rows of all ranks, LEFT_G.. those that go left; SIGN
is that of a monotone column."""
GAIN, LOW, HIGH, LEFT_VALUE, RIGHT_VALUE, VALUE = range(6)
N_REALS = 6
N_NODES, N_LEAVES, N_FREE = range(3)
"""Words of ``state``."""

_AHEAD = 12  # rows: what is fetched now is there when it is needed


@njit(cache=True, nogil=True)
def to_rows(columns, codes):
    """codes (n, d) = the transpose of columns (d, n), in squares that stay in the cache."""
    d, n = columns.shape
    for lo in range(0, n, 64):
        hi = min(lo + 64, n)
        for j in range(d):
            for i in range(lo, hi):
                codes[i, j] = columns[j, i]


@njit(inline="always")
def _count(codes, width, idx, lo, hi, gh, out):
    """`_build` for columns ``width`` cells apart; unsigned numbers spare the check for a negative index."""
    n_columns = np.uint64(codes.shape[1])
    flat = codes.ravel()
    last = np.uint64(max(hi - 1, 0))
    for a in range(np.uint64(lo), np.uint64(hi)):
        i = np.uint64(idx[a])
        soon = np.uint64(idx[min(a + np.uint64(_AHEAD), last)])
        prefetch(flat, np.int64(soon * n_columns))
        prefetch(flat, np.int64(soon * n_columns + n_columns - np.uint64(1)))  # a row may lie in two lines
        prefetch(gh, np.int64(soon))
        x = gh[i]
        at, p = np.uint64(0), i * n_columns
        for _ in range(n_columns >> np.uint64(3)):
            add_eight(out, at, flat, p, width, x)
            at += width << np.uint64(3)
            p += np.uint64(8)
        for _ in range(n_columns & np.uint64(7)):
            out[at + flat[p]] += x
            at += width
            p += np.uint64(1)


@inner()
def _build(codes, n_codes, idx, lo, hi, gh, out, counted):
    """out = histogram of the rows idx[lo:hi]."""
    out[:] = 0
    width = np.uint64(n_codes)
    if n_codes == 256:  # the usual case, where the cells of eight columns are constant distances apart
        _count(codes, np.uint64(256), idx, lo, hi, gh, out)
    else:
        _count(codes, width, idx, lo, hi, gh, out)
    if counted:
        counts = out[codes.shape[1] * n_codes :]
        for a in range(lo, hi):
            i = np.uint64(idx[a])
            at = np.uint64(0)
            for j in range(np.uint64(codes.shape[1])):
                counts[at + codes[i, j]] += 1
                at += width


@njit(cache=True, nogil=True)
def root(codes, n_codes, idx, gh, ints, reals, state, pool, counted, most):
    """Begin a tree: node 0 holds all of idx and has its histogram in slot 0; values lie within -most..most."""
    n_slots = len(pool)
    state[N_NODES] = state[N_LEAVES] = 1
    state[N_FREE] = n_slots - 1
    for k in range(n_slots - 1):
        state[3 + k] = n_slots - 1 - k
    ints[0, :] = 0
    ints[0, LEFT] = -1
    ints[0, STOP] = len(idx)
    reals[0, :] = 0.0
    reals[0, LOW], reals[0, HIGH] = -most, most
    _build(codes, n_codes, idx, ints[0, START], ints[0, STOP], gh, pool[0], counted)


@njit(inline="always")
def _partition(column, go, idx, spare, lo, hi):
    """Order idx[lo:hi] so that rows which go left come first, both sides in their order; return where right begins."""
    one = np.uint64(1)
    left, right = np.uint64(lo), np.uint64(0)
    for a in range(np.uint64(lo), np.uint64(hi)):
        i = np.uint64(idx[a])
        goes = np.uint64(go[column[i]])
        idx[left] = i
        spare[right] = i
        left += goes
        right += one - goes
    rest = idx[np.int64(left) : hi]
    for a in range(len(rest)):
        rest[a] = spare[a]
    return np.int64(left)


@njit(cache=True, nogil=True)
def advance(batch, n_batch, columns, codes, n_codes, idx, spare, gh, ints, reals, state, go, own, out, counted, last):
    """Split the nodes of a batch: rows, children, and the histograms of both children over this rank's rows.

    The side with fewer rows is counted, the other is what the parent has besides.  Left children get a new slot, right
    ones their parent's.

    Parameters
    ----------
    own : pool of histograms of this rank's rows.   out : (n_batch, cells) written: those of the left children; empty
        where nobody else needs them.
    last : True if the children are leaves whatever comes, so that they need no histograms.
    """
    for k in range(n_batch):
        p = batch[k]
        lo, hi = ints[p, START], ints[p, STOP]
        mid = _partition(columns[ints[p, FEATURE]], go[p], idx, spare, lo, hi)
        child = state[N_NODES]
        state[N_NODES] += 2
        state[N_LEAVES] += 1
        ints[p, LEFT] = child
        ints[p, OPEN] = 0
        _child(ints, reals, child, p, lo, mid, True)
        _child(ints, reals, child + 1, p, mid, hi, False)
        slot = ints[p, SLOT]
        if last:
            state[3 + state[N_FREE]] = slot
            state[N_FREE] += 1
            continue
        state[N_FREE] -= 1
        new = state[3 + state[N_FREE]]
        ints[child, SLOT], ints[child + 1, SLOT] = new, slot
        mine, parent = own[new], own[slot]
        if mid - lo <= hi - mid:
            _build(codes, n_codes, idx, lo, mid, gh, mine, counted)
            for c in range(len(mine)):
                parent[c] -= mine[c]
        else:
            _build(codes, n_codes, idx, mid, hi, gh, mine, counted)
            for c in range(len(mine)):
                right = mine[c]
                mine[c] = parent[c] - right
                parent[c] = right
        if len(out) > 0:
            for c in range(len(mine)):
                out[k, c] = mine[c]


@njit(inline="always")
def _child(ints, reals, child, parent, start, stop, left):
    ints[child, :] = 0
    ints[child, LEFT] = -1
    ints[child, START], ints[child, STOP] = start, stop
    ints[child, DEPTH] = ints[parent, DEPTH] + 1
    for total, part in ((G, LEFT_G), (H, LEFT_H), (C, LEFT_C)):
        ints[child, total] = ints[parent, part] if left else ints[parent, total] - ints[parent, part]
    reals[child, :] = 0.0
    reals[child, LOW], reals[child, HIGH] = reals[parent, LOW], reals[parent, HIGH]
    if ints[parent, SIGN] != 0:
        middle = 0.5 * (reals[parent, LEFT_VALUE] + reals[parent, RIGHT_VALUE])
        reals[child, HIGH if left == (ints[parent, SIGN] > 0) else LOW] = middle
    reals[child, VALUE] = reals[parent, LEFT_VALUE] if left else reals[parent, RIGHT_VALUE]


@njit(cache=True, nogil=True)
def take(batch, n_batch, total, ints, pool):
    """Put the left children's histograms over all ranks into their slots, and take them from their parents'."""
    for k in range(n_batch):
        child = ints[batch[k], LEFT]
        left, parent = pool[ints[child, SLOT]], pool[ints[child + 1, SLOT]]
        for c in range(len(left)):
            left[c] = total[k, c]
            parent[c] -= left[c]


@njit(cache=True, nogil=True)
def largest(bits):
    """Return the bits of max |x|, x float32 given as int32; NaN where there is one: its bits are above all others."""
    found = np.int32(0)
    for i in range(len(bits)):
        found = max(found, bits[i] & np.int32(0x7FFFFFFF))
    return found


@njit(inline="always")
def _hash(row, key):
    """32 well mixed bits of a row's number, by operations that vectorise (Murmur3's finaliser, twice keyed)."""
    x = np.uint32(row) ^ np.uint32(key)
    x ^= x >> np.uint32(16)
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x ^= x >> np.uint32(13)
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    x ^= x >> np.uint32(16)
    x = np.uint32(x + np.uint32(key >> np.uint64(32)))
    x = np.uint32(x * np.uint32(0x9E3779B1))
    return np.uint32(x ^ (x >> np.uint32(15)))


@njit(cache=True, nogil=True)
def quantise(g, h, first_row, key, g_scale, h_scale, gh):
    """gh = whole(g g_scale) << 32 | whole(h h_scale), rounded up or down by chance, so that sums have no bias.

    The chance belongs to the row's number: ``first_row`` is the number of the first one.

    Source: Shi, Ke, Chen, Zheng, Liu (2022), "Quantized training of gradient boosting decision trees".
    """
    half = np.float32(1 / 65536)
    up, beside = np.float32(g_scale), np.float32(h_scale)
    key = np.uint64(key)
    mixed = np.uint32(first_row >> 32) * np.uint32(0x9E3779B1)
    low = np.uint32(first_row & 0xFFFFFFFF)
    for i in range(len(g)):
        bits = _hash(np.uint32(low + np.uint32(i)) ^ mixed, key)
        a = np.floor(g[i] * up + np.float32(np.int32(bits & np.uint32(0xFFFF))) * half)
        b = np.floor(h[i] * beside + np.float32(np.int32(bits >> np.uint32(16))) * half)
        gh[i] = (np.int64(np.int32(a)) << 32) + np.int64(np.int32(b))


@njit(cache=True, nogil=True)
def chosen(first_row, n, key, limit, out):
    """out[i] = 1 where the row is drawn, with a chance of limit / 2^32."""
    key = np.uint64(key)
    for i in range(n):
        row = np.uint64(first_row + i)
        mixed = np.uint32(row >> np.uint64(32)) * np.uint32(0x9E3779B1)
        out[i] = np.uint64(_hash(np.uint32(row) ^ np.uint32(mixed), key)) < limit


@njit(cache=True, nogil=True)
def mark_leaves(leaves, idx, ints, leaf):
    """leaf[row] = number of its leaf, counted from 1: two bytes a row stay in the cache where they are scattered."""
    for k in range(len(leaves)):
        own = idx[ints[leaves[k], START] : ints[leaves[k], STOP]]
        for r in range(len(own)):
            leaf[np.uint64(own[r])] = k + 1


@njit(cache=True, nogil=True)
def leaf_sums(leaf, g, h, g_scale, h_scale, sums):
    """sums (n_leaves + 1, 3) = exact sums of g and h in fixed point and the rows, of each leaf; first what has none."""
    sums[:] = 0
    for i in range(len(leaf)):
        k = np.uint64(leaf[i])
        sums[k, 0] += np.int64(np.float64(g[i]) * g_scale)
        sums[k, 1] += np.int64(np.float64(h[i]) * h_scale)
        sums[k, 2] += 1


@njit(cache=True, nogil=True)
def add_leaves(leaf, values, f):
    """f[row] += value of its leaf; values[0] is 0."""
    for i in range(len(leaf)):
        f[i] += values[np.uint64(leaf[i])]


@njit(cache=True, nogil=True)
def route(rows, columns, ints, go, values, f):
    """f[row] += value of the leaf that each row falls into, by its codes."""
    for a in range(len(rows)):
        i = rows[a]
        node = 0
        while ints[node, LEFT] >= 0:
            node = ints[node, LEFT] + 1 - np.int64(go[node, columns[ints[node, FEATURE], i]])
        f[i] += values[node]


@njit(cache=True, nogil=True)
def fixed_sum(values, rows, scale):
    """Exact sum of values[rows] in fixed point; all rows where ``rows`` is empty."""
    total = np.int64(0)
    if len(rows) == 0:
        for i in range(len(values)):
            total += np.int64(np.float64(values[i]) * scale)
    else:
        for a in range(len(rows)):
            total += np.int64(np.float64(values[rows[a]]) * scale)
    return total
