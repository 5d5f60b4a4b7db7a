"""All rows of a data set, in order, for predictions and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti.data import shards
from tutti.data.labels import codes
from tutti.data.opened import BLOCK_ROWS, take_rows
from tutti.errors import DataError
from tutti.protocols import Part, Piece
from tutti.types import Array, Block, Csr

if TYPE_CHECKING:
    from tutti.data.dataset import Dataset


def predict_blocks(data: Dataset, n_features: int, classes: tuple[Any, ...] | None = None) -> Iterator[Block]:
    """Yield blocks of at most 65,536 rows in the order of the source.

    ``y`` holds int32 codes if ``classes`` are given, float64 targets if the labels are numbers and no classes are
    given, and is empty where the source has no labels.  ``start`` counts over all rows.  Sparse rows with fewer
    features than the model are widened.  Nothing is scanned: a file is read once.

    Raises
    ------
    DataError : for more features than the model has, or another number of dense columns.
    """
    if data.views:
        rows = data._memo.rows(data)
        source, pieces = data.source, data._memo.scan(data).pieces
        parts: list[tuple[Piece, shards.Rows | None]]
        parts = [(pieces[p], inside) for p, inside in shards.extents(rows, [p.n_rows or 0 for p in pieces])]
    else:
        source = data.source
        parts = [(p, None) for p in source.pieces()]
    start = 0
    for piece, inside in parts:
        part = _fit_width(source.read(piece), piece, n_features)
        chosen: shards.Rows = slice(0, part.x.shape[0]) if inside is None else inside
        for lo in range(0, shards.count(chosen), BLOCK_ROWS):
            some = shards.pick(chosen, slice(lo, min(lo + BLOCK_ROWS, shards.count(chosen))))
            y = _labels(part, some, classes, piece)
            yield Block(take_rows(part.x, some), y, None if part.weight is None else part.weight[some], start)
            start += shards.count(some)


def _fit_width(part: Part, piece: Piece, n_features: int) -> Part:
    came = part.x.shape[1]
    if came == n_features:
        return part
    if isinstance(part.x, Csr) and came < n_features:
        return Part(Csr(part.x.indptr, part.x.indices, part.x.values, n_features), part.y, part.weight)
    raise DataError(
        f"X has {came} features, but the model is expecting {n_features} features as input",
        path=piece.path or None,
    )


def _labels(part: Part, rows: shards.Rows, classes: tuple[Any, ...] | None, piece: Piece) -> Array:
    if part.y is None:
        return np.zeros(0)
    y = part.y[rows]
    if classes is not None:
        try:
            return codes(y, classes)
        except DataError as error:
            raise DataError(error.message, path=piece.path or None) from None
    return y.astype(np.float64) if y.dtype.kind not in "UO" else np.zeros(0)
