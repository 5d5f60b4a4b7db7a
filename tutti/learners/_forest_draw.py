"""Rows of a tree of a balanced forest: of each class as many as the rarest has, with replacement.

Source: Chen, Liaw, Breiman (2004), "Using random forest to learn imbalanced data".  A draw is a rank among the rows of
its class in the order of all rows, so a part of the rows needs to know no more than how many of each class lie before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutti.protocols import ShardData
from tutti.types import Array, Arrays


def class_counts(data: ShardData, n_classes: int) -> Array:
    """Return (n_classes,) rows of each class in a shard."""
    out = np.zeros(n_classes, np.int64)
    for i in range(len(data.bounds)):
        out += np.bincount(data.block(i).y, minlength=n_classes)
    return out


def places(parts: Sequence[Arrays]) -> dict[str, Array]:
    """Return (class_sizes, class_starts): rows of each class in all, and before each shard."""
    counts = np.array([p["classes"] for p in parts])
    return {"class_sizes": counts.sum(axis=0), "class_starts": np.cumsum(counts, axis=0) - counts}


def times_of(learner: Any, shared: Arrays, key: Any, label: Array, first: int) -> Array:
    """Return how often each of some neighbouring rows is drawn; they begin where a shard does, at row ``first``."""
    from tutti.learners._kernels.tree_balanced import times_balanced

    sizes, starts = np.array(shared["class_sizes"]), shared["class_starts"]
    shard = int(np.searchsorted(starts.sum(axis=1), first, side="right")) - 1
    each = max(1, round(learner.rate * int(sizes.min())))
    out = np.empty(len(label), np.int64)
    times_balanced(key, sizes, each, np.ascontiguousarray(label), starts[shard].copy(), out)
    return out


def draw(learner: Any, shared: Arrays, table: Any, key: Any, entries: Array) -> int:
    """Write the entries of the rows that are drawn for a tree; return their number.

    If none of them weighs anything, which happens for a handful of rows, all rows are drawn.
    """
    from tutti.learners._kernels.tree_balanced import entries_of

    times = times_of(learner, shared, key, table.label, 0)
    n = int(entries_of(table.label, table.weight, times, entries))
    return n or int(entries_of(table.label, table.weight, np.ones_like(times), entries))
