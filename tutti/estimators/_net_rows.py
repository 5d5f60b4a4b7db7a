"""What a net may be fitted on: rows of any shape, made flat, and told how to be put in shape again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError, InputError
from tutti.estimators._intake import as_dataset, is_dataset
from tutti.estimators._net_items import arrow_arrays, collected, has_lists, is_arrow, is_rows
from tutti.learners.module.fields import Field, join
from tutti.types import Array


@dataclass(frozen=True)
class Rows:
    """What a net is fitted on.

    Parameters
    ----------
    dataset : of flat rows.
    fields : the tensors they become; () is one plain "x".
    label_dtype : of the caller's labels, where they were an array.
    target : True if the dataset's y belongs into the batch.
    """

    dataset: Any
    fields: tuple[Field, ...] = ()
    label_dtype: Any = None
    target: bool = True

    def tensors(self, n_features: int) -> tuple[Field, ...]:
        """Return the fields, or one plain "x" of all columns where the source has no shape of its own."""
        return self.fields or (Field("x", 0, n_features, (n_features,)),)


def intake(X: Any, y: Any, sample_weight: Any, name: str) -> Rows:
    """Return what the arguments of ``fit`` stand for."""
    if is_dataset(X) or isinstance(X, str | os.PathLike):
        dataset, dtype = as_dataset(X, y, sample_weight, name)
        return Rows(dataset, (), dtype)
    if y is None and is_rows(X):
        rows = collected(X)
        if rows.keys() != {"x", "y"}:
            raise InputError(f"fit takes a torch Dataset of pairs (x, y); this one gives {', '.join(map(repr, rows))}")
        X, y = rows["x"], rows["y"]
    if isinstance(y, str):
        X, y = without(X, y)
    x, fields = flat(X)
    dataset, dtype = as_dataset(x, y, sample_weight, name)
    return Rows(dataset, fields, dtype)


def flat(X: Any) -> tuple[Any, tuple[Field, ...]]:
    """Return (rows of two dimensions, the field "x" that they become); frames and sparse rows pass as they are.

    An Arrow table with lists of a fixed size becomes an array: in their shape if it is one column, else side by side.
    """
    if is_arrow(X) and has_lists(X):
        columns = arrow_arrays(X)
        if len(columns) > 1:
            columns = {"x": join(columns)[0]}
        X = next(iter(columns.values()))
    plain = hasattr(X, "shape") and not any(hasattr(X, name) for name in ("columns", "indptr", "column_names"))
    array = np.asarray(X) if plain else None
    if array is None or array.dtype.kind not in "fiub" or array.ndim < 2:
        return X, ()
    return join({"x": array})


def bundle(data: Any) -> tuple[Array, tuple[Field, ...]]:
    """Return the data of `tutti.train` as (flat rows, fields)."""
    if is_rows(data):
        data = collected(data)
    if is_arrow(data):
        data = arrow_arrays(data)
    if isinstance(data, tuple):
        data = dict(zip(("x", "y", *(f"x{i}" for i in range(2, len(data)))), data, strict=False))
    if not isinstance(data, Mapping):
        data = {"x": data}
    return join({str(name): _numbers(name, value) for name, value in data.items()})


def without(frame: Any, label: str) -> tuple[Any, Any]:
    """Return (frame or table without the column of labels, that column)."""
    names = list(getattr(frame, "column_names" if is_arrow(frame) else "columns", ()))
    if label not in names:
        raise DataError(f"y={label!r} names no column of X{f': it has {names}' if names else ', which has no names'}")
    if is_arrow(frame):
        return frame.drop_columns([label]), frame.column(label)
    rest = frame.drop(columns=[label]) if hasattr(frame, "iloc") else frame.drop(label)
    return rest, frame[label]


def _numbers(name: Any, value: Any) -> Array:
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        came = f"{type(value).__name__} of dtype {array.dtype}"
        raise DataError(f"{name!r} is {came}; give an array of numbers, rows first")
    return array
