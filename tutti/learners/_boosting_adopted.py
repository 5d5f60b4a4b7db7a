"""Rows that come to a rank in the middle of a fit, because the rank that had them was lost.

What belongs to a row follows from the bins and the trees so far: nothing of the lost rank is needed but its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tutti.learners._boosting_model import Forest
from tutti.learners._boosting_rows import Rows
from tutti.protocols import ShardData

if TYPE_CHECKING:
    from tutti.learners._boosting_fit import Fit


def adopt(fit: Fit, shards: Mapping[int, ShardData]) -> None:
    """Put the rows of those of the shards that are new behind the others, as if they had been there from the start.

    Between the trees of a round gradients are those of its beginning, and only whole trees are in the scores.
    """
    new = {s: data for s, data in shards.items() if s not in fit.shards}
    fit.shards = dict(shards)
    if not new:
        return
    rows, k = fit.encoded(new), fit.n_outputs
    f = np.repeat(fit.model.base[:, None], rows.n, axis=1)
    g, h = np.empty((k, rows.n), np.float32), np.empty((k, rows.n), np.float32)
    loss = np.empty(rows.n, np.float32)
    forest = Forest.of({**fit.bins.arrays(), **fit.model.arrays()})
    there = forest.n_trees - forest.n_trees % k
    forest.add_coded_rows(rows.codes, f, 0, there)
    fit.slopes(rows, f, g, h, loss)
    forest.add_coded_rows(rows.codes, f, there, forest.n_trees)
    fit.rows = joined(fit.rows, rows)
    fit.f, fit.g, fit.h = (np.concatenate(both, axis=1) for both in ((fit.f, f), (fit.g, g), (fit.h, h)))
    fit.make_room()


def joined(rows: Rows, more: Rows) -> Rows:
    """Return rows, and more behind them."""
    n = rows.n
    return Rows(
        columns=np.concatenate([rows.columns, more.columns], axis=1),
        codes=np.concatenate([rows.codes, more.codes]),
        y=np.concatenate([rows.y, more.y]),
        weight=np.concatenate([rows.weight, more.weight]),
        train=np.concatenate([rows.train, more.train + np.int32(n)]),
        valid=np.concatenate([rows.valid, more.valid + np.int32(n)]),
        pieces=(*rows.pieces, *((lo + n, hi + n, first) for lo, hi, first in more.pieces)),
    )
