"""One tree inside one call: rows are drawn, nodes split depth first, numbered as scikit-learn numbers them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.keyed import below, keyed, low_half, mixed
from tutti.learners._kernels.tree_monotone import child_bounds, into_bounds, split_sign
from tutti.learners._kernels.tree_split import (
    BIN,
    CLASSES,
    DRAWN,
    ENTROPY,
    FEATURE,
    HAD_MISSING,
    MASK,
    MISSING_LEFT,
    N_LEFT,
    N_ORDER,
    NEXT,
    ROW,
    SPARSE,
    U,
    _is_constant,
    _scan_dense,
    _scan_small,
    count_columns,
    payload_of,
)
from tutti.learners._kernels.tree_wide import scan_wide, side_score, weight_of

LEFT, RIGHT, N_ROWS, CUT_BIN, SET, GOES_LEFT = 1, 2, 3, 4, 5, 6  # columns of the node table; 0 is the feature
N_INTEGERS, N_REALS = 7, 3  # reals: cut, impurity, weight
EPSILON = 2.220446049250313e-16


@inner()
def _more_rows(table, more):
    """Copy a table to the beginning of a longer one; loops, since a slice is compiled ten times as long."""
    for p in range(len(table)):
        for q in range(table.shape[1]):
            more[p, q] = table[p, q]
    return more


@njit(cache=True, nogil=True)
def times_drawn(key, first, n, thresholds, out):
    """out[i] = how often row first + i is drawn: its own 32 random bits looked up in a Poisson distribution."""
    for i in range(n):
        u = low_half(keyed(key, first + i))
        t = 0
        for k in range(6):
            t += 1 if u >= thresholds[k] else 0
        out[i] = t
        if t == 6:
            for k in range(6, len(thresholds)):
                out[i] += 1 if u >= thresholds[k] else 0


@njit(cache=True, nogil=True)
def draw(table, rules, key, thresholds, entries):
    """Write the entries of the rows that are drawn (all rows if ``thresholds`` is empty); return their number.

    If none is drawn, which happens for a handful of rows, all are.
    """
    label = rules.kind == CLASSES
    times = np.empty(1024, np.uint8)
    m = 0
    for again in range(2):
        for lo in range(0, table.n_rows, 1024):
            n = min(1024, table.n_rows - lo)
            if len(thresholds) > 0 and again == 0:
                times_drawn(key, lo, n, thresholds, times)
            else:
                for i in range(n):
                    times[i] = 1
            for i in range(n):
                row = lo + i
                w = np.int64(times[i])
                e = row | (w << 32)
                if label:
                    e |= np.int64(table.label[row]) << 48
                entries[m] = e
                m += 1 if (w > 0 and (len(table.weight) == 0 or table.weight[row] > 0)) else 0
        if m > 0:
            break
    return m


@inner()
def add_stats(rules, target, square, weight, entries, lo, hi, stats):
    """stats += (rows, weight of each class) or (rows, weight, sum of each output, sum of squares)."""
    k = rules.n_outputs
    weighted = len(weight) > 0
    if rules.kind == CLASSES and k == 2 and not weighted:
        drawn, second = np.int64(0), np.int64(0)
        for a in range(lo, hi):
            w = (entries[a] >> 32) & DRAWN
            drawn += w
            second += w & -(entries[a] >> 48)
        stats[0] += hi - lo
        stats[1] += drawn - second
        stats[2] += second
        return
    for a in range(lo, hi):
        e = entries[a]
        row = e & ROW
        w = (e >> 32) & DRAWN
        if weighted:
            w *= weight[row]
        stats[0] += 1
        if rules.kind == CLASSES:
            stats[1 + (e >> 48)] += w
        else:
            stats[1] += w
            for o in range(k):
                stats[2 + o] += w * target[row * k + o]
            stats[2 + k] += w * square[row]


@inner(error_model="numpy")
def impurity_of(rules, stats):
    """Gini 1 - sum p^2, entropy -sum p log2 p, or the variance, mean over the outputs."""
    total = weight_of(rules, stats)
    if total <= 0.0:
        return 0.0
    if rules.kind == CLASSES:
        s = 0.0
        for k in range(rules.n_outputs):
            p = stats[1 + k] * rules.class_weight[k] / total
            if rules.criterion == ENTROPY:
                s -= p * math.log2(p) if p > 0.0 else 0.0
            else:
                s += p * p
        return s if rules.criterion == ENTROPY else 1.0 - s
    if rules.criterion == ENTROPY:
        return -side_score(rules, stats) / total / rules.n_outputs
    s = stats[2 + rules.n_outputs] * rules.square_unit / total
    for o in range(rules.n_outputs):
        mean = stats[2 + o] * rules.scale / total
        s -= mean * mean
    return max(s, 0.0) / rules.n_outputs


@inner()
def _pure(rules, target, entries, lo, hi, stats):
    if rules.kind == CLASSES:
        present = 0
        for k in range(rules.n_outputs):
            present += 1 if stats[1 + k] > 0 else 0
        return present < 2
    k = rules.n_outputs
    first = (entries[lo] & ROW) * k
    for a in range(lo + 1, hi):
        row = (entries[a] & ROW) * k
        for o in range(k):
            if target[row + o] != target[first + o]:
                return False
    return True


@inner(error_model="numpy")
def best_split(table, rules, work, codes, rs, cs, target, weight, entries, lo, hi, stats, size, key, monotone):
    """Draw features and find their best cut, which goes to work.found; returns its score, -inf if there is none.

    Features are drawn without replacement until max_features are, then on while all of them were constant.  A monotone
    column is judged by `scan_wide`, which knows of bounds.
    """
    d, m, found, h = table.n_features, hi - lo, work.found, work.histogram
    packed = rules.kind == CLASSES and rules.n_outputs == 2 and len(weight) == 0 and rules.criterion == 0
    if packed and stats[1] + stats[2] > MASK:
        packed = False
    total = np.int64(0)
    small = False
    if packed:
        total = (stats[1] + stats[2]) | (stats[0] << 21) | (stats[2] << 42)
        small = m < SPARSE
        if small:
            for a in range(m):
                work.rows[a] = (entries[lo + a] & ROW) * rs
                work.payload[a] = payload_of(entries[lo + a])
    best, drawn, useful = -np.inf, np.int64(0), 0
    permutation, swaps = work.permutation, work.swaps
    while drawn < d and (drawn < rules.max_features or useful == 0):
        left = rules.max_features - drawn
        take = 1 if left <= 0 else (5 if left == 5 else min(left, 4))
        for t in range(take):
            other = drawn + t + below(keyed(key, drawn + t), d - drawn - t)
            swaps[drawn + t] = other
            permutation[drawn + t], permutation[other] = permutation[other], permutation[drawn + t]
        dense = packed and not small and table.any_categorical == 0
        if dense:
            count_columns(codes, rs, cs, permutation, drawn, take, entries, lo, hi, h)
        for t in range(take):
            f, signed = permutation[drawn + t], False
            if monotone is not None:
                signed = monotone.signs[f] != 0
            if dense and not signed:
                constant, gone = _is_constant(h, 256 * t, total), h[256 * t] != 0
                s, at, follow, side = -np.inf, 0, 0, False
                if not constant:
                    s, at, follow, side = _scan_dense(h, 256 * t, total, rules, work.prefix, work.score)
            elif small and not signed and table.categorical[f] == 0:
                s, at, follow, side, constant, gone = _scan_small(
                    codes, f * cs, work.rows, work.payload, m, work.small, total, rules
                )
            else:
                best, constant = scan_wide(
                    table,
                    rules,
                    work,
                    codes,
                    rs,
                    f * cs,
                    target,
                    weight,
                    entries,
                    lo,
                    hi,
                    stats,
                    size,
                    f,
                    best,
                    monotone,
                )
                useful += 0 if constant else 1
                continue
            useful += 0 if constant else 1
            if s > best:
                best = s
                found[FEATURE], found[BIN], found[NEXT] = f, at, follow
                found[MISSING_LEFT], found[HAD_MISSING] = side, gone
        drawn += take
    for q in range(drawn - 1, -1, -1):
        other = swaps[q]
        permutation[q], permutation[other] = permutation[other], permutation[q]
    return best


@inner()
def partition(codes, rs, offset, cut, missing_left, entries, lo, hi, spare):
    """Move rows with code <= cut to the front, the others behind, each in their order; returns where these begin."""
    front, behind, one, none = U(lo), U(0), U(1), U(0)
    low = np.int64(0 if missing_left else 1)  # code 0, less 1 in 8 bits, is beyond every cut
    most, stride, start = np.int64(cut) - low, U(rs), U(offset)
    for a in range(lo, hi):
        e = entries[a]
        goes = one if ((np.int64(codes[U(e & ROW) * stride + start]) - low) & 255) > most else none
        entries[front] = e
        spare[behind] = e
        front += one - goes
        behind += goes
    mid = np.int64(front)
    for a in range(np.int64(behind)):
        entries[mid + a] = spare[a]
    return mid


@inner()
def partition_set(codes, rs, offset, words, entries, lo, hi, spare):
    """`partition` of categories: codes whose bit is set in ``words`` (8 of 32 bits) go to the front."""
    front, behind = np.int64(lo), np.int64(0)
    for a in range(lo, hi):
        e = entries[a]
        c = np.int64(codes[(e & ROW) * rs + offset])
        goes = np.int64(1) - ((np.int64(words[c >> 5]) >> (c & 31)) & 1)
        entries[front] = e
        spare[behind] = e
        front += 1 - goes
        behind += goes
    for a in range(behind):
        entries[front + a] = spare[a]
    return front


@inner()
def threshold(table, feature, at, follow):
    """(bin, cut) between bin ``at`` and the next bin of the node that holds rows; (255, inf) if there is none."""
    if follow < 0:
        return 255, np.inf
    lo, hi = table.value_at[feature], table.value_at[feature + 1]
    if hi > lo:
        a, b = table.values[lo + at - 1], table.values[lo + follow - 1]
        middle = 0.5 * a + 0.5 * b
        return at, (a if middle >= b else middle)
    middle_bin = at + (follow - at - 1) // 2
    return middle_bin, table.cuts[table.cut_at[feature] + middle_bin - 1]


@inner()
def _set_of(order, n_left, n_order, missing_left, words):
    """Bits of the codes that go left: the first of ``order``; missing and absent ones on the side of the missing."""
    fill = np.uint32(0xFFFFFFFF) if missing_left else np.uint32(0)
    for q in range(8):
        words[q] = fill
    for i in range(n_order):
        c = order[i]
        bit = np.uint32(1) << np.uint32(c & 31)
        if i < n_left:
            words[c >> 5] |= bit
        else:
            words[c >> 5] &= ~bit


@inner(error_model="numpy")
def write_node(rules, stats, node, ints, reals, values):
    """Write what a node is whether or not it is split: a leaf until told otherwise."""
    ints[node, FEATURE] = -1
    ints[node, LEFT] = ints[node, RIGHT] = node
    ints[node, N_ROWS] = stats[0]
    ints[node, CUT_BIN] = 0
    ints[node, SET] = -1
    ints[node, GOES_LEFT] = 0
    total = weight_of(rules, stats)
    reals[node, 0], reals[node, 1], reals[node, 2] = 0.0, impurity_of(rules, stats), total * rules.unit
    for k in range(rules.n_outputs):
        if rules.kind == CLASSES:
            values[node, k] = stats[1 + k] * rules.class_weight[k] / total if total > 0.0 else 0.0
        else:
            values[node, k] = rules.shift[k] + (stats[2 + k] / total * rules.scale if total > 0.0 else 0.0)


@njit(cache=True, nogil=True)  # as `grow`: else numpy's functions are compiled for each of the two
def _larger(ints, reals, values):
    n, k = 2 * len(ints), values.shape[1]
    wide, real = np.empty((n, N_INTEGERS), np.int32), np.empty((n, N_REALS))
    return _more_rows(ints, wide), _more_rows(reals, real), _more_rows(values, np.empty((n, k)))


@inner()
def _localise(table, rules, work, m, lo):
    """Copy the codes and targets of a node's rows to where they lie together; entries count from 0 then."""
    stride, k = table.stride >> 3, rules.n_outputs
    weighted, regression = len(table.weight) > 0, rules.kind != CLASSES
    for a in range(m):
        e = work.entries[lo + a]
        row = e & ROW
        work.local_entries[a] = (e - row) | a
        at, to = row * stride, a * stride
        for q in range(stride):
            work.local_words[to + q] = table.words[at + q]
        if weighted:
            work.local_weight[a] = table.weight[row]
        if regression:
            for o in range(k):
                work.local_target[a * k + o] = table.target[row * k + o]
            work.local_square[a] = table.square[row]


@inner(error_model="numpy")
def may_split(rules, target, entries, lo, hi, depth, stats):
    """False for a node that is a leaf whatever its features are."""
    n = stats[0]
    if depth >= rules.max_depth or n < rules.min_split or n < 2 * rules.min_leaf:
        return False
    if rules.min_weight > 0.0 and weight_of(rules, stats) < 2.0 * rules.min_weight:
        return False
    return not _pure(rules, target, entries, lo, hi, stats)


@inner(error_model="numpy")
def enough(rules, score, stats):
    """True if the split's decrease of the weighted impurity is what ``min_decrease`` asks for."""
    if score == -np.inf:
        return False
    if rules.min_decrease <= 0.0:
        return True
    outputs = 1.0 if rules.kind == CLASSES else np.float64(rules.n_outputs)
    return (score - side_score(rules, stats)) / outputs + EPSILON >= rules.min_decrease


@inner()
def write_split(table, work, node, ints, reals, sets, n_sets):
    """Write the split of work.found; returns (sets, their number)."""
    found = work.found
    feature = found[FEATURE]
    ints[node, 0] = feature
    ints[node, GOES_LEFT] = found[MISSING_LEFT]
    if table.categorical[feature] != 0:
        if n_sets == len(sets):
            more = np.empty((2 * n_sets + 1, 8), np.uint32)
            sets = _more_rows(sets, more)
        _set_of(work.best_order, found[N_LEFT], found[N_ORDER], found[MISSING_LEFT] != 0, sets[n_sets])
        ints[node, SET] = n_sets
        return sets, n_sets + 1
    ints[node, CUT_BIN], reals[node, 0] = threshold(table, feature, found[BIN], found[NEXT])
    return sets, n_sets


@inner()
def part_rows(work, codes, rs, offset, entries, lo, hi, node, sets):
    """Part the rows of a node by the split in its row of the table; returns where the right ones begin."""
    if node[SET] >= 0:
        mid = partition_set(codes, rs, offset, sets[node[SET]], entries, lo, hi, work.spare)
    else:
        mid = partition(codes, rs, offset, node[CUT_BIN], node[GOES_LEFT] != 0, entries, lo, hi, work.spare)
    if work.found[HAD_MISSING] == 0:  # rows that miss the value later go where most rows went
        node[GOES_LEFT] = mid - lo > hi - mid
        if node[SET] >= 0:
            _set_of(work.best_order, work.found[N_LEFT], work.found[N_ORDER], node[GOES_LEFT] != 0, sets[node[SET]])
    return mid


@njit(cache=True, nogil=True, error_model="numpy")
def grow(table, rules, work, n_entries, root_key, local_rows, monotone):
    """Grow a tree on work.entries[:n_entries], depth first; ``monotone`` (None: nothing is) has the root's bounds.

    A node of at most ``local_rows`` rows has its rows' codes copied together, and its whole subtree reads that copy.
    Returns (integers, reals, values, sets) of all nodes.
    """
    k = rules.n_outputs
    size = 1 + k if rules.kind == CLASSES else 2 + k
    width = size + (0 if rules.kind == CLASSES else 1)
    ints, reals, values = np.empty((256, N_INTEGERS), np.int32), np.empty((256, N_REALS)), np.empty((256, k))
    sets, n_sets, n_nodes = np.empty((0, 8), np.uint32), np.int64(0), np.int64(0)
    places, keys = np.empty((64, 5), np.int64), np.empty(64, np.uint64)  # lo, hi, depth, parent, is right
    sums = np.zeros((64, width), np.int64)
    add_stats(rules, table.target, table.square, table.weight, work.entries, np.int64(0), n_entries, sums[0])
    places[0, 0], places[0, 1], places[0, 2], places[0, 3], places[0, 4] = 0, n_entries, 0, -1, 0
    keys[0] = root_key
    if monotone is not None:
        limits = np.empty((64, 2))
        limits[0, 0], limits[0, 1] = monotone.bounds[0], monotone.bounds[1]
    top, base = 1, -1
    stats, right = np.empty(width, np.int64), np.empty(width, np.int64)
    while top > 0:
        top -= 1
        if top < base:
            base = -1
        lo, hi, depth, parent = places[top, 0], places[top, 1], places[top, 2], places[top, 3]
        key, node = keys[top], n_nodes
        for q in range(width):
            stats[q] = sums[top, q]
        if n_nodes == len(ints):
            ints, reals, values = _larger(ints, reals, values)
        n_nodes += 1
        if parent >= 0:
            ints[parent, RIGHT if places[top, 4] else LEFT] = node
        write_node(rules, stats, node, ints, reals, values)
        if monotone is not None:
            monotone.bounds[0], monotone.bounds[1] = limits[top, 0], limits[top, 1]
            into_bounds(rules, values[node], limits[top, 0], limits[top, 1])
        if base < 0 and hi - lo <= local_rows and depth + 1 < rules.max_depth:
            _localise(table, rules, work, hi - lo, lo)
            base, lo, hi = top, 0, hi - lo
        codes, rs, cs, entries = table.by_column, 1, table.n_rows, work.entries
        target, square, weight = table.target, table.square, table.weight
        if base >= 0:
            codes, rs, cs, entries = work.local_codes, table.stride, 1, work.local_entries
            target, square, weight = work.local_target, work.local_square, work.local_weight
        if len(table.weight) == 0:
            weight = table.weight
        if not may_split(rules, target, entries, lo, hi, depth, stats):
            continue
        score = best_split(
            table, rules, work, codes, rs, cs, target, weight, entries, lo, hi, stats, size, key, monotone
        )
        if not enough(rules, score, stats):
            continue
        sets, n_sets = write_split(table, work, node, ints, reals, sets, n_sets)
        feature = work.found[FEATURE]
        mid = part_rows(work, codes, rs, feature * cs, entries, lo, hi, ints[node], sets)
        if top + 2 > len(places):
            places, keys, sums = _deeper(places, keys, sums)
            if monotone is not None:
                limits = _more_rows(limits, np.empty((len(places), 2)))
        small, first, last = (top + 1, lo, mid) if mid - lo <= hi - mid else (top, mid, hi)
        for q in range(width):
            right[q] = 0
        add_stats(rules, target, square, weight, entries, first, last, right)
        for q in range(width):
            sums[small, q] = right[q]
            sums[2 * top + 1 - small, q] = stats[q] - right[q]
        for side in range(2):  # the right child waits below the left one
            at = top + 1 - side
            places[at, 0], places[at, 1] = (lo, mid) if side == 0 else (mid, hi)
            places[at, 2], places[at, 3], places[at, 4] = depth + 1, node, side
            keys[at] = mixed(key + np.uint64(1 + side))
            if monotone is not None:
                sign, b = split_sign(work.found, monotone), monotone.bounds
                limits[at, 0], limits[at, 1] = child_bounds(sign, b[0], b[1], b[2], side)
        top += 2
    return ints[:n_nodes].copy(), reals[:n_nodes].copy(), values[:n_nodes].copy(), sets[:n_sets].copy()


@njit(cache=True, nogil=True)  # as `grow`: else numpy's functions are compiled for each of the two
def _deeper(places, keys, sums):
    n = len(places)
    more = np.empty(2 * n, np.uint64)
    for p in range(n):
        more[p] = keys[p]
    both = (
        _more_rows(places, np.empty((2 * n, 5), np.int64)),
        _more_rows(sums, np.empty((2 * n, sums.shape[1]), np.int64)),
    )
    return both[0], more, both[1]
