"""What a net may be fitted on: rows of any shape, made flat, and told how to be put in shape again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError, InputError
from tutti.estimators._intake import as_dataset, is_dataset
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
    if y is None and _is_map_style(X):
        X, y = collected(X)
    x, fields = flat(X)
    dataset, dtype = as_dataset(x, y, sample_weight, name)
    return Rows(dataset, fields, dtype)


def flat(X: Any) -> tuple[Any, tuple[Field, ...]]:
    """Return (rows of two dimensions, the field "x" that they become); frames and sparse rows pass as they are."""
    plain = hasattr(X, "shape") and not any(hasattr(X, name) for name in ("columns", "indptr", "column_names"))
    array = np.asarray(X) if plain else None
    if array is None or array.dtype.kind not in "fiub" or array.ndim < 2:
        return X, ()
    return join({"x": array})


def bundle(data: Any) -> tuple[Array, tuple[Field, ...]]:
    """Return the data of `tutti.train` as (flat rows, fields)."""
    if _is_map_style(data) and not isinstance(data, Mapping | tuple | list):
        data = collected(data)
    if isinstance(data, tuple):
        data = dict(zip(("x", "y", *(f"x{i}" for i in range(2, len(data)))), data, strict=False))
    if not isinstance(data, Mapping):
        data = {"x": data}
    return join({str(name): _numbers(name, value) for name, value in data.items()})


def collected(items: Any) -> tuple[Array, Array]:
    """Return the rows of a map-style torch Dataset, whose items are (x, y), as arrays."""
    pairs = [items[i] for i in range(len(items))]
    if not pairs or not all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs):
        raise InputError("a torch Dataset gives a pair (x, y) per row; this one does not")
    return np.stack([np.asarray(x) for x, _ in pairs]), np.stack([np.asarray(y) for _, y in pairs])


def _is_map_style(X: Any) -> bool:
    return all(hasattr(X, name) for name in ("__getitem__", "__len__")) and not hasattr(X, "shape")


def _numbers(name: Any, value: Any) -> Array:
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        came = f"{type(value).__name__} of dtype {array.dtype}"
        raise DataError(f"{name!r} is {came}; give an array of numbers, rows first")
    return array
