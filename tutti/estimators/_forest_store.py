"""Trees from a file: every number is checked before a row is sent down, since a wrong child could lead anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tutti.errors import ModelError
from tutti.learners._trees import STORED, Trees
from tutti.types import Array


def checked_trees(arrays: Mapping[str, Array], n_features: int, n_outputs: int) -> Trees:
    """Return the trees of a stored model; ModelError if they are not what a fit leaves."""
    for name, dtype in STORED.items():
        name = f"tree_{name}"
        if name not in arrays:
            raise ModelError(f"the array {name!r} is missing")
        if arrays[name].dtype != dtype:
            raise ModelError(f"the array {name!r} must be {dtype}, came {arrays[name].dtype}")
    t = {name: arrays[f"tree_{name}"] for name in STORED}
    n, sizes, sets = len(t["feature"]), np.diff(t["offset"]), t["sets"]
    flat = ("cut", "bin", "left", "right", "missing_left", "n_rows", "weight", "impurity", "set_at")
    shapes = all(t[name].shape == (n,) for name in flat)
    shapes = shapes and t["value"].shape == (n, n_outputs) and sets.ndim == 2 and sets.shape[1] == 8
    if not shapes or t["offset"][0] != 0 or t["offset"][-1] != n or (sizes < 1).any():
        raise ModelError("the arrays of the trees do not fit together")
    inner = t["feature"] >= 0
    here = np.arange(n) - np.repeat(t["offset"][:-1], sizes)
    size = np.repeat(sizes, sizes)
    behind = (t["left"] == here + 1) & (t["right"] > here) & (t["right"] < size)
    if not behind[inner].all() or (t["feature"] >= n_features).any() or not np.isfinite(t["value"]).all():
        raise ModelError("a node of the trees leads nowhere, or asks for a feature that is not there")
    if (t["set_at"] >= len(sets)).any() or np.isnan(t["cut"]).any():
        raise ModelError("a split of the trees is broken")
    return Trees.from_stored(arrays)
