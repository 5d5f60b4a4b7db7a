"""Columns along which predictions rise or fall: which splits are in order, and what lies below them.

A split on such a column whose sides' values are not in order, or outside of the node's bounds, is refused; its children
lie on either side of the middle of the two values, and values of nodes are moved into their bounds.  Kernels get None
where no column is monotone, and are compiled without any of this then.

Source: the rule of scikit-learn's trees (from version 1.4 on).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tutti.learners._kernels.inner import inner
from tutti.learners._kernels.tree_split import CLASSES, FEATURE, NEXT


class Monotone(NamedTuple):
    """What kernels know of monotone columns.

    signs (n_features,) int64: 1, -1 or 0.   bounds (3,): what the value of the node at hand lies between, and the
    middle of the values of both sides of its best split.  The value is the mean target, or the share of the second of
    two classes.
    """

    signs: Any
    bounds: Any


@inner(error_model="numpy")
def side_value(rules, stats):
    """The mean target, or the share of the second class, of rows that were added up."""
    if rules.kind == CLASSES:
        part = stats[2] * rules.class_weight[1]
        return part / (stats[1] * rules.class_weight[0] + part)
    return rules.shift[0] + stats[2] / stats[1] * rules.scale


@inner(error_model="numpy")
def in_order(rules, left, right, sign, bounds):
    """True if both sides' values lie in the node's bounds and rise, or fall, as they must; NaN is in no order."""
    u, v = side_value(rules, left), side_value(rules, right)
    return min(u, v) >= bounds[0] and max(u, v) <= bounds[1] and (v - u) * sign >= 0.0


@inner(error_model="numpy")
def middle_of(rules, left, right):
    """The middle of the values of both sides, which lies between them as rounded, too."""
    return 0.5 * side_value(rules, left) + 0.5 * side_value(rules, right)


@inner()
def split_sign(found, monotone):
    """Sign of the column that a split is on, 0 where it only parts missing rows from all others."""
    return monotone.signs[found[FEATURE]] if found[NEXT] >= 0 else 0


@inner()
def child_bounds(sign, low, high, middle, side):
    """(low, high) of the left (0) or right (1) child."""
    if sign == 0:
        return low, high
    return (low, middle) if (sign > 0) == (side == 0) else (middle, high)


@inner()
def into_bounds(rules, value, low, high):
    """Move the value (n_outputs,) of a node into its bounds."""
    if rules.kind != CLASSES:
        value[0] = min(max(value[0], low), high)
    elif low > -np.inf or high < np.inf:
        value[1] = min(max(value[1], low), high)
        value[0] = 1.0 - value[1]
