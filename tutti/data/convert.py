"""Whatever a caller calls "data" becomes a C- or F-ordered float array or a canonical `Csr`, copied only where it must.

Other libraries are recognised by their methods, so none of them is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.types import Array, Csr

_SMALL = {"bool", "int8", "uint8", "int16", "uint16", "float16", "float32"}


def features(x: Any, missing: bool = False) -> tuple[Array | Csr, tuple[str, ...] | None]:
    """Return the feature matrix and its column names, if it has any.

    ``missing`` turns what is missing (None, nulls) into NaN instead of refusing it.

    Raises
    ------
    DataError : for anything that is not a real matrix with at least one row and column.
    """
    if _is_sparse(x):
        matrix: Array | Csr = _from_sparse(x)
        names = None
    elif isinstance(x, Csr):
        matrix, names = _canonical(x.indptr, x.indices, x.values, x.n_features), None
    elif _is_frame(x):
        matrix, names = _from_frame(x, missing)
    else:
        matrix, names = _from_array(x, missing), None
    n, d = matrix.shape
    if n == 0:
        raise DataError(f"Found array with 0 sample(s) (shape=({n}, {d})) while a minimum of 1 is required.")
    if d == 0:
        raise DataError(f"Found array with 0 feature(s) (shape=({n}, {d})) while a minimum of 1 is required.")
    return matrix, names


def _is_sparse(x: Any) -> bool:
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


def _is_frame(x: Any) -> bool:
    return (hasattr(x, "columns") and hasattr(x, "shape") and not isinstance(x, np.ndarray)) or _is_arrow(x)


def _is_arrow(x: Any) -> bool:
    return hasattr(x, "column_names") and hasattr(x, "num_rows")


def float_type(dtype: Any) -> type[np.float32 | np.float64]:
    """float32 for what fits into it exactly (bool, integers up to 16 bit, float16, float32), else float64."""
    return np.float32 if np.dtype(dtype).name in _SMALL else np.float64


def as_numpy(x: Any) -> Any:
    """Unwrap torch tensors and pandas, polars or Arrow columns; leave anything else to numpy."""
    if hasattr(x, "detach") and hasattr(x, "cpu"):
        x = x.detach().cpu()
        return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    if hasattr(x, "to_pylist") and hasattr(x, "to_numpy"):  # an Arrow column
        return x.to_numpy(zero_copy_only=False)
    if not isinstance(x, np.ndarray) and hasattr(x, "to_numpy"):
        return x.to_numpy()
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise DataError("masked values came, and there is no number to put in their place: fill or drop them first")
    return x


def _from_array(x: Any, missing: bool) -> Array:
    try:
        array = np.asarray(as_numpy(x))
    except ValueError as error:
        raise DataError(f"X is not a table of numbers: {error}") from None
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: X must hold real numbers")
    if array.ndim != 2:
        hint = (
            "Reshape your data either using array.reshape(-1, 1) if your data has a single feature "
            "or array.reshape(1, -1) if it contains a single sample."
        )
        raise DataError(
            f"Expected 2D array, got {'scalar' if array.ndim == 0 else f'{array.ndim}D'} array instead "
            f"(Found array with dim {array.ndim}, shape {array.shape}). {hint}"
        )
    return _as_float(array, missing)


def _as_float(array: Array, missing: bool = False) -> Array:
    if array.dtype.kind in "OUSVMm":
        return _parse_objects(array, missing)
    dtype = float_type(array.dtype)
    if array.dtype == dtype and array.dtype.isnative and array.flags.aligned:
        if array.flags.c_contiguous or array.flags.f_contiguous:
            return array.view(np.ndarray)
        return np.ascontiguousarray(array)
    return array.astype(dtype, order="K" if array.flags.f_contiguous else "C")


def _parse_objects(array: Array, missing: bool) -> Array:
    if array.dtype.kind in "VMm":
        raise DataError(f"X holds {array.dtype}, which is not a number: turn it into numbers first")
    items = array.tolist()
    for i, j in np.ndindex(*array.shape):
        value = items[i][j]
        try:
            float(value)
        except ValueError:
            raise DataError(f"text {value!r} where a number was expected", row=i, column=j) from None
        except TypeError as error:
            if isinstance(value, complex):
                raise DataError("Complex data not supported: X must hold real numbers", row=i, column=j) from None
            if value is None or type(value).__name__ == "NAType":
                if missing:
                    items[i][j] = math.nan
                    continue
                raise DataError("a value is missing: fill or drop it first", row=i, column=j) from None
            raise TypeError(f"row {i}, column {j} of X: {error}") from None
    return np.array(items, np.float64).reshape(array.shape)


def _from_frame(x: Any, missing: bool) -> tuple[Array, tuple[str, ...] | None]:
    names = list(x.column_names if _is_arrow(x) else x.columns)
    if not _is_arrow(x) and hasattr(x, "iloc"):
        kinds = set(map(str, x.dtypes))
        if kinds == {"float32"} or kinds == {"float64"}:
            return _as_float(x.to_numpy()), _text_names(names)
        columns = [x.iloc[:, j] for j in range(len(names))]
    else:
        columns = [x[name] if not _is_arrow(x) else x.column(j) for j, name in enumerate(names)]
    n = x.num_rows if _is_arrow(x) else x.shape[0]
    if not names or not n:
        return np.empty((n, len(names))), _text_names(names)
    arrays = [_frame_column(c, name, missing) for c, name in zip(columns, names, strict=True)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in arrays) else np.float64
    out = np.empty((n, len(arrays)), dtype=dtype, order="F")
    for j, array in enumerate(arrays):
        out[:, j] = array
    return out, _text_names(names)


def _text_names(names: Sequence[Any]) -> tuple[str, ...] | None:
    return tuple(names) if names and all(isinstance(n, str) for n in names) else None


def _frame_column(column: Any, name: Any, missing: bool) -> Array:
    nulls = _nulls(column)
    if len(nulls) and not missing:
        raise DataError("a value is missing: fill or drop it first", row=int(nulls[0]), column=name)
    array = np.asarray(as_numpy(column))
    if len(nulls) and array.dtype.kind == "O":
        array = array.copy()
        array[nulls] = math.nan
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: X must hold real numbers", column=name)
    if array.dtype.kind in "VMm":
        raise DataError(f"X holds {array.dtype}, which is not a number: turn it into numbers first", column=name)
    if array.dtype.kind in "OUS":
        for i, value in enumerate(array):
            try:
                float(value)
            except (TypeError, ValueError):
                raise DataError(f"{value!r} where a number was expected", row=i, column=name) from None
        return array.astype(np.float64)
    return array.astype(float_type(array.dtype), copy=False)


def _nulls(column: Any) -> Array:
    """Return the rows of the nulls of a pandas extension, polars or Arrow column; NaN is left to others."""
    if isinstance(getattr(column, "dtype", None), np.dtype) and column.dtype.kind != "O":
        return np.zeros(0, np.intp)
    probe = getattr(column, "is_null", None) or getattr(column, "isna", None)
    if probe is None:
        return np.zeros(0, np.intp)
    return np.flatnonzero(np.asarray(as_numpy(probe()), dtype=bool))


def _from_sparse(x: Any) -> Csr:
    if x.ndim != 2:
        raise DataError(f"Expected 2D array, got {x.ndim}D sparse array instead. Reshape your data: one row per sample")
    if x.dtype.kind == "c":
        raise DataError("Complex data not supported: X must hold real numbers")
    m = x if getattr(x, "format", "") == "csr" else x.tocsr()
    return _canonical(m.indptr, m.indices, m.data, m.shape[1])


def _canonical(indptr: Any, indices: Any, values: Any, n_features: int) -> Csr:
    from tutti.data._kernels import csr

    ptr = np.ascontiguousarray(indptr, dtype=np.int64)
    if n_features >= 2**31:
        raise DataError(f"{n_features} features; at most {2**31 - 1} can be numbered: hash them into fewer")
    raw = np.ascontiguousarray(indices)
    val = np.ascontiguousarray(values, dtype=float_type(np.asarray(values).dtype))
    if len(val) != len(raw) or not len(ptr) or ptr[0] != 0:
        raise DataError("the sparse matrix is broken: its data, indices and indptr do not fit together")
    state = csr.check(ptr, raw, n_features)
    if state == csr.BROKEN:
        raise DataError(f"the sparse matrix is broken: an index lies outside 0..{n_features - 1}, or indptr runs back")
    idx = raw.astype(np.int32, copy=False)
    if state == csr.MESSY:
        ptr, idx, val = csr.tidy(ptr, idx, val)
    return Csr(ptr, idx[: ptr[-1]], val[: ptr[-1]], n_features)


def labels(y: Any, n_rows: int) -> Array:
    """Return the labels or targets as a 1-d array of numbers or of text.

    Raises
    ------
    DataError : for a wrong shape, missing values or a mixture of text and numbers.
    """
    array = np.asarray(as_numpy(y))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"y should be a 1d array, got an array of shape {array.shape} instead.")
    if len(array) != n_rows:
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{n_rows}, {len(array)}]")
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: y must hold labels or real numbers")
    if array.dtype.kind in "OT":
        return _object_labels(array)
    if array.dtype.kind not in "biufU":
        raise DataError(f"y holds {array.dtype}; write labels as numbers or text")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _object_labels(array: Array) -> Array:
    items = array.tolist()
    for i, item in enumerate(items):
        if item is None or item != item or type(item).__name__ == "NAType":
            raise DataError("Input y contains NaN or None: every row needs a label", row=i)
    if all(isinstance(item, str) for item in items):
        return np.asarray(items, dtype=str)
    if all(isinstance(item, bool | int | float | np.number | np.bool_) for item in items):
        return np.asarray(items)
    odd = next(i for i, item in enumerate(items) if type(item) is not type(items[0]))
    raise DataError(
        f"Unknown label type: unknown. y mixes {type(items[0]).__name__} and {type(items[odd]).__name__}: "
        "write all labels as text, or all as numbers",
        row=odd,
    )


def weights(sample_weight: Any, n_rows: int) -> Array:
    """Return the sample weights as float64 (n_rows,); one number stands for all rows.

    Raises
    ------
    DataError : for a wrong shape, negative or non-finite weights, or zeros alone.
    """
    array = np.asarray(as_numpy(sample_weight))
    if array.dtype.kind not in "biuf":
        raise DataError(f"sample_weight holds {array.dtype}; write numbers")
    array = np.full(n_rows, float(array)) if array.ndim == 0 else array.astype(np.float64, copy=False)
    if array.ndim != 1:
        raise DataError(f"Sample weights must be 1D array or scalar, got {array.ndim}D array of shape {array.shape}")
    if len(array) != n_rows:
        raise DataError(f"sample_weight.shape == ({len(array)},), expected ({n_rows},): one weight per row")
    check_weights(array)
    return np.ascontiguousarray(array)


def check_weights(array: Array, where: str | None = None) -> None:
    """Refuse weights that are negative or not finite anywhere, or zero everywhere."""
    if not len(array):
        return
    low, total = float(array.min()), float(array.sum())
    if not math.isfinite(total) or low < 0:
        bad = np.flatnonzero(~np.isfinite(array) | (array < 0))
        if len(bad):
            raise DataError(
                f"sample_weight is {float(array[bad[0]])!r}; weights are finite and not negative",
                path=where,
                row=int(bad[0]),
            )
    if total == 0 and where is None:
        raise DataError("sample_weight is zero for every row: nothing would be learned")
