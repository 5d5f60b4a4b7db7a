"""What the arrays of boosted trees must be before a kernel may walk through them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tutti.errors import ModelError
from tutti.types import Array

_KINDS = {
    "feature": "int32", "bin": "uint8", "cut": "float64", "left": "int32", "missing_left": "bool", "set_at": "int32",
    "value": "float64", "gain": "float64", "weight": "float64", "n_rows": "int64", "offset": "int64", "sets": "uint32",
    "base": "float64", "train_score": "float64", "validation_score": "float64", "bin_cuts": "float64",
    "bin_cut_at": "int64", "bin_values": "float64", "bin_value_at": "int64", "bin_categorical": "bool",
}  # fmt: skip
_PER_NODE = ("feature", "bin", "cut", "left", "missing_left", "set_at", "value", "gain", "weight", "n_rows")


def check_arrays(arrays: Mapping[str, Array], n_features: int, n_outputs: int, right_task: bool) -> None:
    """Raise ModelError unless the arrays are trees over ``n_features`` columns with ``n_outputs`` outputs."""
    if not right_task:
        raise ModelError("the estimator and the classes of the model do not fit together")
    for name, kind in _KINDS.items():
        if name not in arrays:
            raise ModelError(f"the array {name!r} is missing")
        if str(arrays[name].dtype) != kind or arrays[name].ndim != (2 if name == "sets" else 1):
            raise ModelError(f"the array {name!r} must be {kind}, came {arrays[name].dtype}{arrays[name].shape}")
    offset, n = arrays["offset"], len(arrays["feature"])
    if any(len(arrays[name]) != n for name in _PER_NODE):
        raise ModelError("the arrays of the trees differ in length")
    if len(arrays["base"]) != n_outputs or not np.isfinite(arrays["base"]).all():
        raise ModelError(f"the array 'base' must hold {n_outputs} finite numbers")
    if not len(offset) or offset[0] != 0 or offset[-1] != n or (np.diff(offset) < 1).any():
        raise ModelError("the array 'offset' does not cut the nodes into trees")
    if (len(offset) - 1) % n_outputs:
        raise ModelError(f"{len(offset) - 1} trees for {n_outputs} outputs")
    _check_nodes(arrays, n_features, np.repeat(offset[:-1], np.diff(offset)), np.repeat(offset[1:], np.diff(offset)))
    _check_bins(arrays, n_features)


def _check_nodes(arrays: Mapping[str, Array], d: int, first: Array, stop: Array) -> None:
    feature, left = arrays["feature"].astype(np.int64), arrays["left"].astype(np.int64)
    inner = feature >= 0
    own = np.arange(len(feature)) - first
    fine = np.where(inner, (feature < d) & (left > own) & (first + left + 1 < stop), (feature == -1) & (left == -1))
    if not fine.all():
        raise ModelError(f"node {int(np.flatnonzero(~fine)[0])} does not belong to a tree")
    at, sets = arrays["set_at"], arrays["sets"]
    if sets.shape[1:] != (8,) or (at < -1).any() or (at >= len(sets)).any():
        raise ModelError("the sets of categories do not fit the nodes")
    if not np.isfinite(arrays["value"]).all() or np.isnan(arrays["cut"]).any():
        raise ModelError("a value or a cut is not a number")


def _check_bins(arrays: Mapping[str, Array], d: int) -> None:
    for what, at in (("bin_cuts", "bin_cut_at"), ("bin_values", "bin_value_at")):
        ends = arrays[at]
        if len(ends) != d + 1 or ends[0] != 0 or ends[-1] != len(arrays[what]) or (np.diff(ends) < 0).any():
            raise ModelError(f"the array {at!r} does not cut {what!r} into columns")
        if (np.diff(ends) > 255).any():
            raise ModelError(f"a column has more than 255 of {what!r}")
    if len(arrays["bin_categorical"]) != d:
        raise ModelError(f"the array 'bin_categorical' must tell of {d} columns")
