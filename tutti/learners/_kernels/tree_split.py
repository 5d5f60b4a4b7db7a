"""The best split of one node: whole-number histograms of the node's rows, each cut between two bins judged once.

A row of a node is an entry of 64 bits: row (32), times drawn (16), class (15).  Codes lie at ``codes[row * rs +
feature * cs]``, so rows or columns may be together.  Two classes without sample weights are counted in one word of
three fields (weight, rows, weight of the second class); everything else in one column per number.  Bins that hold no
row of a small node are skipped by a bitmap: the split is the one a full pass would find, at the cost of a sort or less.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tutti.learners._kernels.bits import lowest
from tutti.learners._kernels.inner import inner

CLASSES, REGRESSION = 0, 1
GINI, ENTROPY, SQUARED = 0, 1, 2
FEATURE, BIN, NEXT, MISSING_LEFT, HAD_MISSING, N_LEFT, N_ORDER = 0, 1, 2, 3, 4, 5, 6
FIELD = 21
MASK = (1 << FIELD) - 1
SPARSE = 160
"""Nodes of fewer rows skip empty bins."""
ROW, DRAWN = 0xFFFFFFFF, 0xFFFF
U = np.uint64
H1, H2, H3, H4 = U(256), U(512), U(768), U(1024)


class Table(NamedTuple):
    """Binned rows and targets; flat arrays.

    by_column (n_features * n_rows,), by_row (n_rows * stride,) uint8 codes, words: by_row, 8 at a time; label (n_rows,)
    int32 classes, or target (n_rows * n_outputs,) and square (n_rows,) int64; weight (n_rows,) int64, empty without
    sample weights.
    """

    by_column: Any
    by_row: Any
    words: Any
    stride: int
    n_rows: int
    n_features: int
    categorical: Any
    any_categorical: int
    cuts: Any
    cut_at: Any
    values: Any
    value_at: Any
    label: Any
    target: Any
    square: Any
    weight: Any


class Rules(NamedTuple):
    """What makes a split good and a node a leaf.

    n_outputs : classes, or outputs of a regression.   min_weight : in whole weights.   min_decrease : of the weighted
    impurity, times the weight of all rows.   class_weight (n_outputs,).   unit : of a whole weight.   scale,
    square_unit : of whole targets and squares.   shift (n_outputs,) : added to the targets.
    """

    kind: int
    n_outputs: int
    criterion: int
    max_features: int
    max_depth: int
    min_split: int
    min_leaf: int
    min_weight: float
    min_decrease: float
    class_weight: Any
    unit: float
    scale: float
    square_unit: float
    shift: Any


class Work(NamedTuple):
    """Scratch of one thread, used for every node and tree; ``small`` and ``wide`` are zero between two columns."""

    entries: Any
    spare: Any
    local_entries: Any
    local_codes: Any
    local_words: Any
    local_target: Any
    local_square: Any
    local_weight: Any
    histogram: Any
    small: Any
    wide: Any
    prefix: Any
    score: Any
    order: Any
    share: Any
    left: Any
    right: Any
    rows: Any
    payload: Any
    permutation: Any
    swaps: Any
    found: Any
    best_order: Any


@inner()
def _field(payload, number):
    return (payload >> (FIELD * number)) & MASK


@inner()
def payload_of(entry):
    """The three fields of a row of two classes."""
    drawn = (entry >> 32) & DRAWN
    return drawn + (1 << FIELD) + ((drawn & -(entry >> 48)) << (2 * FIELD))


@inner(error_model="numpy")
def _two_classes(p, w, p_all, w_all, c0, c1):
    """Minus the weighted Gini impurity of both sides; p, w: second class and all of the left side, not yet weighted."""
    pl, nl = p * c1, (w - p) * c0
    pr, nr = (p_all - p) * c1, (w_all - w - p_all + p) * c0
    wl, wr = pl + nl, pr + nr
    return -2.0 * (pl * nl * wr + pr * nr * wl) / (wl * wr)


@inner()
def _count5(codes, rs, o0, o1, o2, o3, o4, entries, lo, hi, h):
    """Add the rows' payloads to five columns of h; whole numbers without a sign index faster."""
    for a in range(lo, hi):
        e = entries[a]
        at = U(e & ROW) * rs
        p = payload_of(e)
        h[codes[at + o0]] += p
        h[U(codes[at + o1]) + H1] += p
        h[U(codes[at + o2]) + H2] += p
        h[U(codes[at + o3]) + H3] += p
        h[U(codes[at + o4]) + H4] += p


@inner()
def _count4(codes, rs, o0, o1, o2, o3, entries, lo, hi, h):
    for a in range(lo, hi):
        e = entries[a]
        at = U(e & ROW) * rs
        p = payload_of(e)
        h[codes[at + o0]] += p
        h[U(codes[at + o1]) + H1] += p
        h[U(codes[at + o2]) + H2] += p
        h[U(codes[at + o3]) + H3] += p


@inner()
def _count1(codes, rs, o0, entries, lo, hi, h, shift):
    for a in range(lo, hi):
        e = entries[a]
        h[U(codes[U(e & ROW) * rs + o0]) + shift] += payload_of(e)


@inner()
def count_columns(codes, rs, cs, columns, first, take, entries, lo, hi, h):
    """Count ``take`` (at most 5) of the columns from ``first`` on, column t in h[256 t:256 t + 256]."""
    for q in range(256 * take):
        h[q] = 0
    r, c = U(rs), U(cs)
    o0 = U(columns[first]) * c
    if take >= 4:
        o1, o2, o3 = U(columns[first + 1]) * c, U(columns[first + 2]) * c, U(columns[first + 3]) * c
        if take == 5:
            _count5(codes, r, o0, o1, o2, o3, U(columns[first + 4]) * c, entries, lo, hi, h)
        else:
            _count4(codes, r, o0, o1, o2, o3, entries, lo, hi, h)
    else:
        for t in range(take):
            _count1(codes, r, U(columns[first + t]) * c, entries, lo, hi, h, U(256 * t))


@inner(error_model="numpy")
def _scores(prefix, extra, n, w_all, p_all, c0, c1, least, score):
    """score[b] of the cut behind each bin, -inf where a side has fewer than ``least`` rows; several bins at a time."""
    for b in range(256):
        x = prefix[b] + extra
        p, w = np.float64(np.int32(x >> (2 * FIELD))), np.float64(np.int32(x & MASK))  # 32 bits are converted at once
        m = np.int32((x >> FIELD) & MASK)
        pl, nl = p * c1, (w - p) * c0
        pr, nr = (p_all - p) * c1, (w_all - w - p_all + p) * c0
        wl, wr = pl + nl, pr + nr
        s = -2.0 * (pl * nl * wr + pr * nr * wl) / (wl * wr)
        score[b] = s if (m >= least) & (n - m >= least) else -np.inf


@inner()
def _largest(score):
    """(greatest, its first place); four chains of comparisons side by side."""
    a, b, c, d = score[0], score[1], score[2], score[3]
    for i in range(4, 256, 4):
        a = score[i] if score[i] > a else a
        b = score[i + 1] if score[i + 1] > b else b
        c = score[i + 2] if score[i + 2] > c else c
        d = score[i + 3] if score[i + 3] > d else d
    a, c = (a if a > b else b), (c if c > d else d)
    a = a if a > c else c
    i = 0
    while score[i] != a:
        i += 1
    return a, i


@inner(error_model="numpy")
def _scan_dense(h, base, total, rules, prefix, score):
    """Best cut of a counted column: (score, bin, next bin, missing left)."""
    gone = h[base]
    acc = np.int64(0)
    for b in range(1, 256):
        acc += h[base + b]
        prefix[b] = acc
    n, w_all, p_all = _field(total, 1), np.float64(_field(total, 0)), np.float64(_field(total, 2))
    least, left = max(rules.min_leaf, 1), False
    c0, c1 = rules.class_weight[0], rules.class_weight[1]
    if rules.min_weight > 0.0:
        return _scan_slow(h, base, total, rules)
    _scores(prefix, np.int64(0), n, w_all, p_all, c0, c1, least, score)
    best, at = _largest(score)
    if gone != 0:
        _scores(prefix, gone, n, w_all, p_all, c0, c1, least, score)
        score[0] = -np.inf  # missing left, all others right: the cut behind the last bin, mirrored
        other, there = _largest(score)
        if other > best:
            best, at, left = other, there, True
    follow = at + 1
    while follow < 256 and h[base + follow] == 0:
        follow += 1
    return best, at, (follow if follow < 256 else -1), left


@inner(error_model="numpy")
def _scan_slow(h, base, total, rules):
    """`_scan_dense` with a least weight of each side."""
    c0, c1 = rules.class_weight[0], rules.class_weight[1]
    n, w_all, p_all = _field(total, 1), np.float64(_field(total, 0)), np.float64(_field(total, 2))
    least = max(rules.min_leaf, 1)
    best, at, left = -np.inf, 0, False
    for side in range(2 if h[base] != 0 else 1):
        x = h[base] if side == 1 else np.int64(0)
        for b in range(1, 256):
            x += h[base + b]
            m, p, w = _field(x, 1), np.float64(_field(x, 2)), np.float64(_field(x, 0))
            weight = p * c1 + (w - p) * c0
            other = (p_all - p) * c1 + (w_all - w - p_all + p) * c0
            if m >= least and n - m >= least and weight >= rules.min_weight and other >= rules.min_weight:
                s = _two_classes(p, w, p_all, w_all, c0, c1)
                if s > best:
                    best, at, left = s, b, side == 1
    follow = at + 1
    while follow < 256 and h[base + follow] == 0:
        follow += 1
    return best, at, (follow if follow < 256 else -1), left


@inner()
def _is_constant(h, base, total):
    """True if one bin holds all rows."""
    b = base
    while h[b] == 0:
        b += 1
    return h[b] == total


@inner(error_model="numpy")
def _scan_small(codes, offset, rows, payload, m, h, total, rules):
    """Count a column of a small node, judge its cuts and leave h as it was: zero.

    Returns (score, bin, next bin, missing left, constant, any missing).
    """
    w0, w1, w2, w3 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    one, start = U(1), U(offset)
    for a in range(m):
        c = codes[U(rows[a]) + start]
        h[c] += payload[a]
        bit = one << np.uint64(c & 63)
        word = c >> 6
        w0 |= bit if word == 0 else np.uint64(0)
        w1 |= bit if word == 1 else np.uint64(0)
        w2 |= bit if word == 2 else np.uint64(0)
        w3 |= bit if word == 3 else np.uint64(0)
    c0, c1 = rules.class_weight[0], rules.class_weight[1]
    n, w_all, p_all = _field(total, 1), np.float64(_field(total, 0)), np.float64(_field(total, 2))
    least = max(rules.min_leaf, 1)
    gone = h[0]
    h[0] = 0
    w0 &= ~one
    best, at, follow = -np.inf, 0, 0
    other, other_at, other_follow = -np.inf, 0, 0  # with the missing rows on the left
    x = np.int64(0)
    before, n_bins = 0, 1 if gone != 0 else 0
    for word in range(4):
        bits = w0 if word == 0 else (w1 if word == 1 else (w2 if word == 2 else w3))
        while bits != 0:
            b = (word << 6) + lowest(bits)
            bits &= bits - one
            n_bins += 1
            if before > 0:
                s = _judge(x, n, w_all, p_all, c0, c1, least, rules.min_weight)
                if s > best:
                    best, at, follow = s, before, b
                if gone != 0:
                    s = _judge(x + gone, n, w_all, p_all, c0, c1, least, rules.min_weight)
                    if s > other:
                        other, other_at, other_follow = s, before, b
            x += h[b]
            h[b] = 0
            before = b
    if gone != 0 and before > 0:
        s = _judge(x, n, w_all, p_all, c0, c1, least, rules.min_weight)
        if s > best:
            best, at, follow = s, before, -1
    if other > best:  # the same order among equals as where all cuts of one side are judged first
        return other, other_at, other_follow, True, n_bins < 2, gone != 0
    return best, at, follow, False, n_bins < 2, gone != 0


@inner(error_model="numpy")
def _judge(x, n, w_all, p_all, c0, c1, least, min_weight):
    """Score of a cut, -inf if a side is too small."""
    m = _field(x, 1)
    if m < least or n - m < least:
        return -np.inf
    p, w = np.float64(_field(x, 2)), np.float64(_field(x, 0))
    if min_weight > 0.0:
        one, other = p * c1 + (w - p) * c0, (p_all - p) * c1 + (w_all - w - p_all + p) * c0
        if min(one, other) < min_weight:
            return -np.inf
    return _two_classes(p, w, p_all, w_all, c0, c1)
