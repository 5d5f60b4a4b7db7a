"""What a net may be fitted on: rows of any shape, made flat, and told how to be put in shape again."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tutti.errors import InputError
from tutti.estimators._intake import as_dataset, is_dataset
from tutti.types import Array


def intake(X: Any, y: Any, sample_weight: Any, name: str) -> tuple[Any, tuple[int, ...], str, Any]:
    """Return (dataset of flat rows, shape of a row or () for plain ones, kind of the values, dtype of the labels)."""
    if is_dataset(X) or isinstance(X, str | os.PathLike):
        dataset, dtype = as_dataset(X, y, sample_weight, name)
        return dataset, (), "f", dtype
    if hasattr(X, "__getitem__") and hasattr(X, "__len__") and not hasattr(X, "shape") and y is None:
        X, y = _collected(X)
    x, shape, kind = flat(X)
    dataset, dtype = as_dataset(x, y, sample_weight, name)
    return dataset, shape, kind, dtype


def _collected(items: Any) -> tuple[Array, Array]:
    """Return the rows of a map-style torch Dataset, whose items are (x, y), as arrays."""
    pairs = [items[i] for i in range(len(items))]
    if not pairs or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        raise InputError("a torch Dataset gives a pair (x, y) per row; this one does not")
    return np.stack([np.asarray(x) for x, _ in pairs]), np.array([np.asarray(y).item() for _, y in pairs])


def flat(X: Any) -> tuple[Any, tuple[int, ...], str]:
    """Return (rows of two dimensions, the shape of a row if it has more, kind of the values)."""
    if (
        hasattr(X, "shape")
        and not hasattr(X, "columns")
        and not hasattr(X, "indptr")
        and not hasattr(X, "column_names")
    ):
        array = np.asarray(X)
        if array.dtype.kind not in "fiub":
            return X, (), "f"
        if array.ndim > 2:
            return array.reshape(len(array), -1), array.shape[1:], array.dtype.kind
        return array, (), array.dtype.kind
    return X, (), "f"
