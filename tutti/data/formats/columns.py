"""Columns of CSV and Parquet: which are features, and how they become the rows of one C-ordered matrix."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.types import Array

_ROWS = 1024  # rows copied at a time, so that the lines of the matrix being filled stay in cache


@dataclass(frozen=True)
class Roles:
    """Names of the feature, label and weight columns."""

    features: tuple[str, ...]
    label: str | None
    weight: str | None


def roles(
    names: Sequence[str], label: str | None, weight: str | None, columns: Sequence[str] | None, path: str
) -> Roles:
    """Sort the columns of a file into features, label and weight.

    Raises
    ------
    DataError : for a name that the file does not have, with those it has, and for names that occur twice.
    """
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"the column {twice[0]!r} occurs twice: give every column a name of its own", path=path)
    for role, name in (("label", label), ("weight", weight), *(("feature", c) for c in columns or ())):
        if name is not None and name not in names:
            raise DataError(_missing(role, name, names), path=path)
    special = {label, weight} - {None}
    chosen = tuple(n for n in names if n not in special) if columns is None else tuple(columns)
    both = [n for n in chosen if n in special]
    if both:
        raise DataError(f"the column {both[0]!r} is label or weight and cannot be a feature, too", path=path)
    return Roles(chosen, label, weight)


def like_first(found: Roles, first: Roles, path: str, first_path: str) -> Roles:
    """Return the columns of a file in the order of the first file.

    Raises
    ------
    DataError : if the two files do not have the same feature columns.
    """
    if found.features == first.features:
        return found
    extra, lacking = set(found.features) - set(first.features), set(first.features) - set(found.features)
    if extra or lacking:
        what = f"lacks {min(lacking)!r}" if lacking else f"has {min(extra)!r} besides"
        raise DataError(
            f"{len(found.features)} feature columns, but {first_path} has {len(first.features)} (this file {what}): "
            "all files of a data set have the same columns",
            path=path,
        )
    return first


def _missing(role: str, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    hint = f" Did you mean {near[0]!r}?" if near else ""
    prediction = " For data without labels write label=None." if role == "label" else ""
    return f"there is no {role} column {name!r}; the columns are {shown}.{hint}{prediction}"


def to_rows(columns: Sequence[Array], n_rows: int, dtype: str) -> Array:
    """Return the columns as a C-ordered (n_rows, n_columns) matrix, transposed a few rows at a time."""
    out = np.empty((n_rows, len(columns)), dtype=dtype)
    for lo in range(0, n_rows, _ROWS):
        target = out[lo : lo + _ROWS]
        for j, column in enumerate(columns):
            target[:, j] = column[lo : lo + _ROWS]
    return out


def check_finite(
    x: Array, names: Sequence[str], where: Callable[[int], tuple[str, int]], missing: bool = False
) -> None:
    """Refuse NaN and infinity; the sum of all values is finite unless one of them is not, or it overflows.

    Parameters
    ----------
    missing : True lets NaN pass.
    """
    with np.errstate(all="ignore"):
        if math.isfinite(float(x.sum())):
            return
    rows, columns = np.nonzero(np.isinf(x) if missing else ~np.isfinite(x))
    if len(rows):
        path, row = where(int(rows[0]))
        value = float(x[rows[0], columns[0]])
        more = ", or read with missing=True for trees" if math.isnan(value) else ""
        raise DataError(
            f"the value is {value!r}: remove the row, or put a finite number in its place{more}",
            path=path,
            row=row,
            column=names[int(columns[0])],
        )


def first_null(column: Any) -> int | None:
    """Return the first row of an Arrow column that holds no value."""
    if not column.null_count:
        return None
    return int(np.flatnonzero(np.asarray(column.is_null().to_numpy(zero_copy_only=False)))[0])
