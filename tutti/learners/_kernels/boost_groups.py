"""Which columns a node of a boosted tree may be split on, where only columns of a group may meet on a path.

A node may use the columns of all groups that hold every column its ancestors are split on.  Kernels get None where all
columns may meet.

Source: the rule of XGBoost's and of scikit-learn's ``interaction_cst``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tutti.learners._kernels.boost import FEATURE
from tutti.learners._kernels.inner import inner


class Groups(NamedTuple):
    """Columns that may meet.

    at (n_groups + 1,), members : the columns of group i are members[at[i]:at[i + 1]]; without groups any two columns
    may meet, and no three.   parent (n_nodes,) int64, used (n_features,) uint8 : scratch.   part : of the columns that
    a node may use, which are drawn.
    """

    at: Any
    members: Any
    parent: Any
    used: Any
    part: float


@inner()
def _mark_path(groups, node, ints):
    """Mark the columns of the ancestors' splits; return their number."""
    used, n = groups.used, 0
    used[:] = 0
    while node > 0:
        node = groups.parent[node]
        n += 1 - used[ints[node, FEATURE]]
        used[ints[node, FEATURE]] = 1
    return n


@inner()
def _of_pairs(groups, n_used, wanted):
    for j in range(len(wanted)):
        wanted[j] = 1 if n_used < 2 else groups.used[j]


@inner()
def _of_groups(groups, n_used, wanted):
    wanted[:] = 0
    for i in range(len(groups.at) - 1):
        lo, hi = groups.at[i], groups.at[i + 1]
        inside = 0
        for q in range(lo, hi):
            inside += groups.used[groups.members[q]]
        if inside == n_used:
            for q in range(lo, hi):
                wanted[groups.members[q]] = 1


@inner(error_model="numpy")
def allowed(groups, node, ints, wanted):
    """Mark the columns that a node may be split on; return how many of them are drawn."""
    n_used = _mark_path(groups, node, ints)
    if len(groups.at) == 0:
        _of_pairs(groups, n_used, wanted)
    else:
        _of_groups(groups, n_used, wanted)
    n = 0
    for j in range(len(wanted)):
        n += wanted[j]
    return max(np.int64(1), np.int64(math.ceil(groups.part * n)))
