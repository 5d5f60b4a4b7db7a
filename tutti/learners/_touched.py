"""A batch of sparse rows on the features that it touches alone: the rows renumbered, and which features they are.

A model of a million features is read and moved at the few thousand that a batch touches, so a step costs what its rows
hold, not what the model holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.learners._margins import Rows, frozen, two_rows
from tutti.types import Array, Block, Csr, Schema


@dataclass(frozen=True)
class Batch:
    """Rows renumbered: feature i of ``rows`` is feature ``touched[i]`` of the data."""

    rows: Rows
    touched: Array


class Renumber:
    """Makes batches; keeps room for one.

    Parameters
    ----------
    n_features : of the data.
    """

    def __init__(self, n_features: int) -> None:
        self._place = np.full(n_features, -1, np.int32)
        self._touched = np.empty(n_features, np.int32)

    def batch(self, parts: Sequence[Rows]) -> Batch:
        """Return the rows of all parts (sparse), one after the other."""
        from tutti.learners._kernels.touched import compact, forget

        n_rows = sum(part.n_rows for part in parts)
        n_values = sum(_values(part) for part in parts)
        indptr, indices = np.zeros(n_rows + 1, np.int64), np.empty(n_values, np.int32)
        xs: list[Any] = [part.block.x for part in parts]
        values = np.empty(n_values, xs[0].values.dtype if xs else np.float64)
        n = row = at = 0
        for part, x in zip(parts, xs, strict=True):
            indptr_of, indices_of, values_of = map(frozen, (x.indptr, x.indices, x.values))
            n, row, at = compact(
                *(indptr_of, indices_of, values_of, part.chunks(), part.size, self._place, self._touched, n),
                *(indptr, indices, values, row, at),
            )
        touched = self._touched[:n].copy()
        forget(self._place, touched)
        picks = [_picked(part) for part in parts]
        weights = [_weight(part, pick) for part, pick in zip(parts, picks, strict=True)]
        weight = None if all(part.block.weight is None for part in parts) else np.concatenate(weights)
        y = np.concatenate([part.block.y[pick] for part, pick in zip(parts, picks, strict=True)]) if parts else None
        block = Block(Csr(indptr, indices, values, n), np.empty(0) if y is None else y, weight, 0)
        return Batch(Rows(block), touched)


def warm_up(schema: Schema) -> None:
    """Compile or load what batches of sparse rows need."""
    from tutti.learners._kernels.touched import fetch, move, settle

    found = Renumber(1).batch([two_rows(schema)])
    w, moved, table, out = np.zeros((1, 1)), np.zeros(1, np.int64), np.ones(2), np.zeros((1, 1))
    fetch(w, moved, table, 0, found.touched, out)
    move(w, moved, table, w.copy(), table, 1, 0, 1, found.touched, 0.0, out)
    settle(w, moved, table, w.copy(), table, 1)


def _picked(rows: Rows) -> Array:
    """Return the row numbers of the chunks."""
    n = len(rows.block.y)
    runs = [np.arange(lo, min(lo + rows.size, n)) for lo in rows.chunks().tolist()]
    return np.concatenate(runs) if runs else np.empty(0, np.int64)


def _values(rows: Rows) -> int:
    x: Any = rows.block.x
    indptr, starts = x.indptr, rows.chunks()
    return int((indptr[np.minimum(starts + rows.size, len(indptr) - 1)] - indptr[starts]).sum())


def _weight(rows: Rows, pick: Array) -> Array:
    weight = rows.block.weight
    return np.ones(len(pick)) if weight is None else weight[pick]
