"""Columns whose values are names: found, numbered for the fit, and numbered the same way for a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.types import Array


@dataclass(frozen=True)
class Categories:
    """Which columns of a fit are categories.

    Parameters
    ----------
    columns : numbers of the columns, rising.
    values : of each, its categories where these are text or no plain numbers; a row holds their position.  None: a row
        holds the number that stands for the category.
    """

    columns: tuple[int, ...] = ()
    values: tuple[tuple[Any, ...] | None, ...] = ()


def is_frame(x: Any) -> bool:
    """Tell pandas and polars frames and Arrow tables from anything else."""
    return hasattr(x, "columns") and hasattr(x, "shape") and not isinstance(x, np.ndarray)


def _is_arrow(x: Any) -> bool:
    return hasattr(x, "column_names")


def _names(x: Any) -> list[Any]:
    return list(x.column_names if _is_arrow(x) else x.columns)


def _column(x: Any, j: int) -> Any:
    if _is_arrow(x):
        return x.column(j)
    return x.iloc[:, j] if hasattr(x, "iloc") else x[x.columns[j]]


def _is_category(column: Any) -> bool:
    kind = str(getattr(column, "dtype", getattr(column, "type", "")))
    return kind.lower().startswith(("category", "categorical", "enum", "dictionary"))


def find(x: Any, wanted: Any) -> Categories:
    """Return the categorical columns of X after the parameter ``categorical_features``.

    Raises
    ------
    ParameterError : a column that X does not have.
    """
    n = x.shape[1] if hasattr(x, "shape") and len(x.shape) == 2 else 0
    names = _names(x) if is_frame(x) else []
    columns = {j for j in range(n) if is_frame(x) and _is_category(_column(x, j))}
    if wanted is not None and not (isinstance(wanted, str) and wanted == "from_dtype"):
        columns |= _wanted(wanted, n, names)
    ordered = tuple(sorted(columns))
    return Categories(ordered, tuple(_values_of(_column(x, j)) if is_frame(x) else None for j in ordered))


def _wanted(wanted: Any, n: int, names: Sequence[Any]) -> set[int]:
    hint = 'write "from_dtype", a mask of the columns, or a list of their numbers or names'
    try:
        listed = np.asarray(wanted).reshape(-1)
    except ValueError:
        raise ParameterError("categorical_features", wanted, hint) from None
    if listed.dtype.kind == "b" and len(listed) == n:
        return set(np.flatnonzero(listed).tolist())
    found = set()
    for item in listed.tolist():
        if isinstance(item, str) and item in names:
            found.add(names.index(item))
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < n:
            found.add(item)
        else:
            raise ParameterError("categorical_features", wanted, f"X has no column {item!r}: {hint}")
    return found


def _values_of(column: Any) -> tuple[Any, ...] | None:
    """Return the categories in order if they are no plain numbers."""
    array = np.asarray(column.to_numpy())
    if array.dtype.kind in "biuf":
        return None
    known = [v for v in array.tolist() if not _missing(v)]
    return tuple(sorted(set(known), key=lambda v: (type(v).__name__, v)))


def _missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType")


def numbered(x: Any, categories: Categories, known: bool) -> Any:
    """Return X with text categories replaced by their positions, missing ones by NaN; arrays are left as they are.

    Raises
    ------
    DataError : with ``known``, a category that was not there in the fit.
    """
    if not is_frame(x) or not any(v is not None for v in categories.values):
        return _plain(x, categories) if is_frame(x) and categories.columns else x
    columns = {}
    for j, values in zip(categories.columns, categories.values, strict=True):
        if values is not None:
            columns[j] = _positions(_column(x, j), {v: float(i) for i, v in enumerate(values)}, _names(x)[j])
    return _rebuilt(x, columns, categories)


def _plain(x: Any, categories: Categories) -> Any:
    return _rebuilt(x, {}, categories)


def _positions(column: Any, place: dict[Any, float], name: Any) -> Array:
    out = np.empty(len(column))
    for i, value in enumerate(np.asarray(column.to_numpy()).tolist()):
        if _missing(value):
            out[i] = np.nan
            continue
        found = place.get(value)
        if found is None:
            raise DataError(
                f"category {value!r} was not there in the fit; write NaN or None where it is unknown",
                row=i,
                column=name,
            )
        out[i] = found
    return out


def _rebuilt(x: Any, columns: dict[int, Array], categories: Categories) -> Any:
    """Return a frame of the same kind and names whose categorical columns are numbers."""
    if _is_arrow(x):
        for j in categories.columns:
            values = columns[j] if j in columns else np.asarray(_column(x, j).to_numpy(), np.float64)
            x = x.set_column(j, x.column_names[j], [values])
        return x
    data = {}
    for j, name in enumerate(x.columns):
        if j in columns:
            data[name] = columns[j]
        elif j in categories.columns:
            data[name] = np.asarray(_column(x, j).to_numpy(), np.float64)
        else:
            data[name] = _column(x, j)
    if not hasattr(x, "iloc"):
        return type(x)(data)
    return type(x)({k: getattr(v, "array", v) for k, v in data.items()}, index=x.index)


def to_codes(x: Array, columns: Sequence[int], values: Sequence[Array]) -> Array:
    """Return a copy of dense rows whose categorical columns hold codes: 1 + position among the values of the fit.

    Raises
    ------
    DataError : a category that was not there in the fit.
    """
    out = np.array(x, order="C")
    for j, known in zip(columns, values, strict=True):
        column = x[:, j].astype(np.float64)
        at = np.minimum(np.searchsorted(known, column), max(len(known) - 1, 0))
        missing = np.isnan(column)
        right = (known[at] == column) if len(known) else np.zeros(len(column), bool)
        bad = np.flatnonzero(~right & ~missing)
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"category {column[row].item()!r} was not there in the fit; write NaN or None where it is unknown",
                row=row,
                column=j,
            )
        out[:, j] = np.where(missing, np.nan, at + 1)
    return out
