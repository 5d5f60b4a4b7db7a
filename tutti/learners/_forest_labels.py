"""Balanced weights of rows with several labels, in the rows of each tree: ``class_weight="balanced_subsample"``.

A row weighs the product, over its labels, of n / (K n_k) in the rows that the tree has drawn.  Weights become whole
numbers, shares of the greatest one, so that sums stay exact; a row that was drawn weighs at least one unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tutti.types import Array


def factors(learner: Any, stats: Array) -> Array:
    """Return (n_targets,) the factor of each class of each label, of the sums over all rows that a tree has drawn."""
    out, at = np.ones(learner.n_targets), 0
    for n in learner.n_classes:
        sums = stats[2 + at : 2 + at + n].astype(np.float64)
        present = max(int((sums > 0).sum()), 1)
        out[at : at + n] = np.divide(sums.sum(), present * sums, out=np.zeros(n), where=sums > 0)
        at += n
    return out


def products(learner: Any, each: Array, target: Array, scale: float, rows: Array) -> Array:
    """Return the product of the factors ``each`` for some rows of ``target`` (n * n_targets,), indicators 1 / scale."""
    out, at = np.ones(len(rows)), 0
    indicators = target.reshape(-1, learner.n_targets)
    for n in learner.n_classes:
        own = indicators[rows, at : at + n].astype(np.float64) * scale
        out *= own @ each[at : at + n]  # one of them is 1: nothing is rounded
        at += n
    return out


def weights(rules: Any, weight: Array, n_rows: int, rows: Array, product: Array, top: float) -> Array:
    """Return (n_rows,) whole weights of the rows drawn, 0 for the others; ``top`` is the greatest product."""
    out = np.zeros(n_rows, np.int64)
    own = weight[rows] if len(weight) else np.full(len(rows), 1.0 / rules.unit)
    out[rows] = np.maximum(np.rint(own * (product / top)), 1.0)
    return out


def reweighed(learner: Any, table: Any, rules: Any, entries: Array) -> Any:
    """Return the table with the weights of one tree, whose rows are ``entries``."""
    from tutti.learners._kernels.tree_spread import add_stats

    stats, rows = np.zeros(3 + rules.n_outputs, np.int64), entries & 0xFFFFFFFF
    add_stats(rules, table.target, table.square, table.weight, entries, 0, len(entries), stats)
    product = products(learner, factors(learner, stats), table.target, rules.scale, rows)
    top = float(product.max(initial=0.0))
    return table._replace(weight=weights(rules, table.weight, table.n_rows, rows, product, top))
