"""Trees from a file: every number is checked before a row is sent down, since a wrong child could lead anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tutti.errors import ModelError
from tutti.learners._trees import Trees
from tutti.types import Array

_TYPES = {
    "offset": "int64", "feature": "int32", "cut": "float64", "bin": "uint8", "left": "int32", "right": "int32",
    "missing_left": "uint8", "value": "float64", "n_rows": "int32", "weight": "float64", "impurity": "float64",
    "set_at": "int32", "sets": "uint32",
}  # fmt: skip


def checked_trees(arrays: Mapping[str, Array], n_features: int, n_outputs: int) -> Trees:
    """Return the trees of a stored model; ModelError if they are not what a fit leaves."""
    for f in dataclasses.fields(Trees):
        name = f"tree_{f.name}"
        if name not in arrays:
            raise ModelError(f"the array {name!r} is missing")
        if arrays[name].dtype != _TYPES[f.name]:
            raise ModelError(f"the array {name!r} must be {_TYPES[f.name]}, came {arrays[name].dtype}")
    t = Trees.from_arrays(arrays)
    n, sizes = len(t.feature), np.diff(t.offset)
    flat = ("cut", "bin", "left", "right", "missing_left", "n_rows", "weight", "impurity", "set_at")
    shapes = all(getattr(t, name).shape == (n,) for name in flat)
    shapes = shapes and t.value.shape == (n, n_outputs) and t.sets.ndim == 2 and t.sets.shape[1] == 8
    if not shapes or t.offset[0] != 0 or t.offset[-1] != n or (sizes < 1).any():
        raise ModelError("the arrays of the trees do not fit together")
    inner = t.feature >= 0
    here = np.arange(n) - np.repeat(t.offset[:-1], sizes)
    size = np.repeat(sizes, sizes)
    behind = (t.left == here + 1) & (t.right > here) & (t.right < size)
    if not behind[inner].all() or (t.feature >= n_features).any() or not np.isfinite(t.value).all():
        raise ModelError("a node of the trees leads nowhere, or asks for a feature that is not there")
    if (t.set_at >= len(t.sets)).any() or np.isnan(t.cut).any():
        raise ModelError("a split of the trees is broken")
    return t
