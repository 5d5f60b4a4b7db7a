"""Decision values X W' + b of any rows: one BLAS call if dense, one pass over the non-zeros if sparse."""

from __future__ import annotations

import numpy as np

from tutti.errors import DataError
from tutti.learners._finite import first_bad
from tutti.types import Array, Csr


def decision(x: Array | Csr, coef: Array, intercept: Array) -> Array:
    """Return (rows, K) float64 decision values.

    float32 rows are multiplied in float32, as they were in the fit, so that they need not be copied.

    Parameters
    ----------
    x : (rows, d) dense rows or `Csr`.
    coef, intercept : (K, d), (K,) float64.

    Raises
    ------
    DataError : NaN or infinity in ``x``, with its place.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(x, Csr):
            product = _sparse_product(x, coef)
        else:
            product = x @ coef.T.astype(x.dtype, copy=False)
        values = product.astype(np.float64, copy=False) + intercept
        # a bad value in a row makes the sum over all decision values bad: the rows themselves are not searched
        suspicious = not np.isfinite(values.sum())
    if suspicious:
        check_finite(x)
    return values


def _sparse_product(x: Csr, coef: Array) -> Array:
    from tutti.learners._kernels.csr import csr_margins

    margins = np.empty((len(coef), len(x.indptr) - 1))
    csr_margins(x.indptr, x.indices, x.values, np.ascontiguousarray(coef.T), np.zeros(len(coef)), margins)
    return margins.T


def check_finite(x: Array | Csr) -> None:
    """Raise DataError for the first NaN or infinity in the rows."""
    bad = first_bad(x)
    if bad is None:
        return
    row, column, value = bad
    word = "NaN" if np.isnan(value) else "infinity"
    raise DataError(f"Input X contains {word}; impute or drop such rows first", row=row, column=column)
