"""How the columns of flat rows become the tensors that a module or a loss gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tutti.errors import DataError
from tutti.types import Array, Csr


@dataclass(frozen=True)
class Field:
    """Columns ``start:stop`` of a row, as one tensor under a name.

    Parameters
    ----------
    shape : of a row; () for a number, (d,) for plain columns.
    dtype : name of a torch dtype; "real" is that of the net's weights.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str = "real"


def join(arrays: Mapping[str, Array]) -> tuple[Array, tuple[Field, ...]]:
    """Return arrays of one length as (flat rows, what each was); whole numbers come back as int64, the rest as "real".

    Raises
    ------
    DataError : lengths differ, or an array holds no numbers.

    Example
    -------
    >>> rows, fields = join({"x": np.zeros((2, 3, 4)), "t": np.arange(2)})
    >>> rows.shape, fields[1]
    ((2, 13), Field(name='t', start=12, stop=13, shape=(), dtype='int64'))
    """
    n_rows = {name: len(a) for name, a in arrays.items()}
    if len(set(n_rows.values())) != 1:
        raise DataError(f"arrays have different numbers of rows: {', '.join(f'{k} {n}' for k, n in n_rows.items())}")
    fields, columns, at = [], [], 0
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name!r} has dtype {array.dtype}; write numbers")
        width = math.prod(array.shape[1:])
        fields.append(Field(name, at, at + width, array.shape[1:], "int64" if array.dtype.kind in "iub" else "real"))
        columns.append(array.reshape(len(array), width))
        at += width
    if len(columns) == 1:
        return columns[0], tuple(fields)
    wide = any(c.dtype == np.float64 or (c.dtype.kind in "iu" and c.dtype.itemsize > 2) for c in columns)
    return np.concatenate([c.astype(np.float64 if wide else np.float32) for c in columns], axis=1), tuple(fields)


def dense_rows(x: Array | Csr, rows: Array | slice) -> Array:
    """Return some rows as a dense array of their own."""
    if not isinstance(x, Csr):
        found = np.ascontiguousarray(x[rows])
        return found if found.flags.writeable else found.copy()  # torch knows no arrays that are read only
    chosen = np.arange(x.shape[0])[rows].tolist()
    out = np.zeros((len(chosen), x.n_features), x.values.dtype)
    for i, row in enumerate(chosen):
        lo, hi = x.indptr[row], x.indptr[row + 1]
        out[i, x.indices[lo:hi]] = x.values[lo:hi]
    return out
