"""NaN and infinity in X, found for free: a row that holds one has a margin that is not finite, whatever the weights.

0 * inf is NaN, so weights of zero do not hide it.  The sum of all margins tells that there is something; only then the
block is searched for the place.
"""

from __future__ import annotations

import math

import numpy as np

from tutti.errors import DataError
from tutti.protocols import ShardData
from tutti.types import Array, Csr

_ROWS = 4096


def check_finite(total: float, x: Array | Csr, start: int, data: ShardData) -> None:
    """Raise `DataError` with the place if the sum of margins is not finite because a value of ``x`` is not.

    Finite values whose products overflow are no error here: the step that led there is refused by the line search.
    """
    if math.isfinite(total):
        return
    bad = first_bad(x)
    if bad is not None:
        row, column, value = bad
        _refuse(value, start + row, column, data)


def first_bad(x: Array | Csr, missing: bool = False) -> tuple[int, int, float] | None:
    """Return (row, column, value) of the first value that is infinite, or NaN unless ``missing``; None if none is."""
    if isinstance(x, Csr):
        lo, hi = int(x.indptr[0]), int(x.indptr[-1])
        bad = np.flatnonzero(is_bad(x.values[lo:hi], missing))
        if not len(bad):
            return None
        at = lo + int(bad[0])
        return int(np.searchsorted(x.indptr, at, side="right")) - 1, int(x.indices[at]), float(x.values[at])
    for lo in range(0, len(x), _ROWS):
        places = np.argwhere(is_bad(x[lo : lo + _ROWS], missing))
        if len(places):
            row, column = lo + int(places[0, 0]), int(places[0, 1])
            return row, column, float(x[row, column])
    return None


def is_bad(values: Array, missing: bool = False) -> Array:
    """Tell of each value whether it is infinite, or NaN unless ``missing``."""
    bad: Array = np.isinf(values) if missing else ~np.isfinite(values)
    return bad


def _refuse(value: float, row: int, column: int, data: ShardData) -> None:
    path, place = data.place(row)
    what = "NaN" if math.isnan(value) else "infinity or a value too large for dtype('float64')"
    raise DataError(f"Input X contains {what}.", path=path, row=place, column=column)
