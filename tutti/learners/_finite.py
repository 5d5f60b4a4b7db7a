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
    if isinstance(x, Csr):
        values = x.values[x.indptr[0] : x.indptr[-1]]
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            at = int(bad[0]) + int(x.indptr[0])
            row = int(np.searchsorted(x.indptr, at, side="right")) - 1
            _refuse(float(x.values[at]), start + row, int(x.indices[at]), data)
        return
    for lo in range(0, len(x), _ROWS):
        finite = np.isfinite(x[lo : lo + _ROWS])
        if not finite.all():
            row, column = (int(i[0]) for i in np.nonzero(~finite))
            _refuse(float(x[lo + row, column]), start + lo + row, column, data)


def _refuse(value: float, row: int, column: int, data: ShardData) -> None:
    path, place = data.place(row)
    what = "NaN" if math.isnan(value) else "infinity or a value too large for dtype('float64')"
    raise DataError(f"Input X contains {what}.", path=path, row=place, column=column)
