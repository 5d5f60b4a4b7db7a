"""Splits where a bin holds more than a word: many classes, sample weights, regressions, categories."""

from __future__ import annotations

import math

import numpy as np

from tutti.learners._kernels.bits import lowest
from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.tree_monotone import in_order, middle_of
from tutti.learners._kernels.tree_split import (
    BIN,
    CLASSES,
    DRAWN,
    ENTROPY,
    FEATURE,
    GINI,
    HAD_MISSING,
    MISSING_LEFT,
    N_LEFT,
    N_ORDER,
    NEXT,
    ROW,
    _two_classes,
)


@inner(error_model="numpy")
def side_score(rules, stats):
    """What both sides of a split add up, greater is better: minus the weighted impurity, up to a constant.

    ``stats`` is (rows, weight of each class before class weights) or (rows, weight, sum of each output).
    """
    if rules.kind == CLASSES:
        total = 0.0
        for k in range(rules.n_outputs):
            total += stats[1 + k] * rules.class_weight[k]
        if rules.criterion == ENTROPY:
            s = 0.0
            for k in range(rules.n_outputs):
                part = stats[1 + k] * rules.class_weight[k]
                if part > 0.0:
                    s += part * math.log2(part / total)
            return s
        s = 0.0
        for k in range(rules.n_outputs):
            part = stats[1 + k] * rules.class_weight[k]
            s += part * part
        return s / total - total
    s = 0.0
    if rules.criterion == ENTROPY:  # of the indicators of several labels
        for o in range(rules.n_outputs):
            part = stats[2 + o] * rules.scale
            if part > 0.0:
                s += part * math.log2(part / stats[1])
        return s
    for o in range(rules.n_outputs):
        part = stats[2 + o] * rules.scale
        s += part * part
    return s / stats[1]


@inner(error_model="numpy")
def weight_of(rules, stats):
    """Weight of a node's rows, class weights included, in whole weights."""
    if rules.kind != CLASSES:
        return np.float64(stats[1])
    total = 0.0
    for k in range(rules.n_outputs):
        total += stats[1 + k] * rules.class_weight[k]
    return total


@inner(error_model="numpy")
def _split_score(rules, left, right):
    if rules.kind == CLASSES and rules.n_outputs == 2 and rules.criterion == GINI:
        p, w = np.float64(left[2]), np.float64(left[1] + left[2])
        p_all, w_all = p + right[2], w + np.float64(right[1] + right[2])
        return _two_classes(p, w, p_all, w_all, rules.class_weight[0], rules.class_weight[1])
    return side_score(rules, left) + side_score(rules, right)


@inner()
def _count(table_label, target, weight, codes, rs, offset, entries, lo, hi, rules, h, size):
    """Add the rows to h, ``size`` numbers a bin; return the bitmap of bins that hold rows."""
    w0, w1, w2, w3 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    one = np.uint64(1)
    weighted = len(weight) > 0
    k = rules.n_outputs
    for a in range(lo, hi):
        e = entries[a]
        row = e & ROW
        c = codes[row * rs + offset]
        w = (e >> 32) & DRAWN
        if weighted:
            w *= weight[row]
        at = c * size
        h[at] += 1
        if rules.kind == CLASSES:
            h[at + 1 + (e >> 48)] += w
        else:
            h[at + 1] += w
            for o in range(k):
                h[at + 2 + o] += w * target[row * k + o]
        bit = one << np.uint64(c & 63)
        word = c >> 6
        w0 |= bit if word == 0 else np.uint64(0)
        w1 |= bit if word == 1 else np.uint64(0)
        w2 |= bit if word == 2 else np.uint64(0)
        w3 |= bit if word == 3 else np.uint64(0)
    return w0, w1, w2, w3


@inner()
def _bins_with_rows(w0, w1, w2, w3, order):
    """Write the bins that hold rows, missing apart, in rising order; return their number."""
    n = 0
    one = np.uint64(1)
    w0 &= ~one
    for word in range(4):
        bits = w0 if word == 0 else (w1 if word == 1 else (w2 if word == 2 else w3))
        while bits != 0:
            order[n] = (word << 6) + lowest(bits)
            bits &= bits - one
            n += 1
    return n


@inner(error_model="numpy")
def _by_target(rules, h, size, total, order, n, share):
    """Sort categories by their mean target: the share of the second of two classes, of the node's most frequent class
    of several, or the mean of the first output."""
    top = 1
    if rules.kind == CLASSES and rules.n_outputs > 2:
        for k in range(rules.n_outputs):
            if total[1 + k] * rules.class_weight[k] > total[1 + top] * rules.class_weight[top]:
                top = k
    for i in range(n):
        at = order[i] * size
        if rules.kind == CLASSES:
            whole = 0.0
            for k in range(rules.n_outputs):
                whole += h[at + 1 + k] * rules.class_weight[k]
            share[i] = h[at + 1 + top] * rules.class_weight[top] / whole if whole > 0 else 0.0
        else:
            share[i] = h[at + 2] / h[at + 1] if h[at + 1] > 0 else 0.0
    for i in range(1, n):
        s, b = share[i], order[i]
        j = i - 1
        while j >= 0 and share[j] > s:
            share[j + 1], order[j + 1] = share[j], order[j]
            j -= 1
        share[j + 1], order[j + 1] = s, b


@inner(error_model="numpy")
def judge_wide(rules, categorical, h, n_bins, size, total, order, work, feature, found, best, monotone):
    """Judge every cut between the bins ``order[:n_bins]`` of h; return the better of ``best`` and the best found.

    What the best split is goes to ``found``, the order of its categories to work.best_order.  A cut that only parts
    missing rows from all others says nothing of an order.
    """
    left, right = work.left, work.right
    least = max(rules.min_leaf, 1)
    gone = h[0] != 0
    for side in range(2 if gone else 1):
        for f in range(size):
            left[f] = h[f] if side == 1 else 0
            right[f] = total[f] - left[f]
        last = n_bins if (gone and side == 0) else n_bins - 1
        for i in range(last):
            at = order[i] * size
            for f in range(size):
                left[f] += h[at + f]
                right[f] -= h[at + f]
            if left[0] < least or right[0] < least:
                continue
            if rules.min_weight > 0.0 and min(weight_of(rules, left), weight_of(rules, right)) < rules.min_weight:
                continue
            s = _split_score(rules, left, right)
            if s > best:
                if monotone is not None:
                    sign = monotone.signs[feature] if i + 1 < n_bins else 0
                    if sign != 0 and not in_order(rules, left, right, sign, monotone.bounds):
                        continue
                    monotone.bounds[2] = middle_of(rules, left, right)
                best = s
                found[FEATURE], found[BIN], found[MISSING_LEFT] = feature, order[i], side
                found[NEXT] = order[i + 1] if i + 1 < n_bins else -1
                found[HAD_MISSING], found[N_LEFT], found[N_ORDER] = gone, i + 1, n_bins
                if categorical:
                    for q in range(n_bins):
                        work.best_order[q] = order[q]
    return best


@inner(error_model="numpy")
def scan_wide(
    table, rules, work, codes, rs, offset, target, weight, entries, lo, hi, total, size, feature, best, monotone
):
    """Count a column and judge its cuts; returns (best score, constant); the histogram is zero again."""
    h, order, found = work.wide, work.order, work.found
    w0, w1, w2, w3 = _count(table.label, target, weight, codes, rs, offset, entries, lo, hi, rules, h, size)
    n = _bins_with_rows(w0, w1, w2, w3, order)
    gone = h[0] != 0
    constant = n + (1 if gone else 0) < 2
    if not constant:
        categorical = table.categorical[feature] != 0
        if categorical:
            _by_target(rules, h, size, total, order, n, work.share)
        best = judge_wide(rules, categorical, h, n, size, total, order, work, feature, found, best, monotone)
    for f in range(size):
        h[f] = 0
    for i in range(n):
        at = order[i] * size
        for f in range(size):
            h[at + f] = 0
    return best, constant
