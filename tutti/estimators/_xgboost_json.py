"""Boosted trees in the JSON of XGBoost 3 (`doc/model.schema` of its repository), for its servers and for SHAP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti.errors import InputError
from tutti.learners._bins import rounded_down
from tutti.types import Array

if TYPE_CHECKING:
    from tutti.estimators._boosted import BoostedTrees

_VERSION = [3, 2, 0]
_OBJECTIVES = {
    "log_loss": "binary:logistic",
    "squared_error": "reg:squarederror",
    "absolute_error": "reg:absoluteerror",
    "quantile": "reg:quantileerror",
    "poisson": "count:poisson",
    "gamma": "reg:gamma",
}
_NO_PARENT = 2147483647


def to_json(model: BoostedTrees) -> str:
    """Return the text of a model file."""
    arrays, d = model.model_, model.n_features_in_
    _check_categories(arrays)
    k = len(arrays["base"])
    n_trees = len(arrays["offset"]) - 1
    trees = [_tree(arrays, t, d) for t in range(n_trees)]
    names = getattr(model, "feature_names_in_", None)
    categorical = arrays["bin_categorical"]
    learner = {
        "attributes": {},
        "feature_names": [] if names is None else list(names),
        "feature_types": ["c" if c else "float" for c in categorical] if names is not None or categorical.any() else [],
        "gradient_booster": {
            "name": "gbtree",
            "model": {
                "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(n_trees)},
                "iteration_indptr": list(range(0, n_trees + 1, k)),
                "tree_info": [t % k for t in range(n_trees)],
                "trees": trees,
                "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
            },
        },
        "learner_model_param": {
            "base_score": _base_score(model.loss, arrays["base"]),
            "boost_from_average": "1",
            "num_class": str(k if k > 1 else 0),
            "num_feature": str(d),
            "num_target": "1",
        },
        "objective": _objective(model, k),
    }
    return json.dumps({"learner": learner, "version": _VERSION})


def _check_categories(arrays: dict[str, Array]) -> None:
    at = arrays["bin_value_at"]
    for j in np.flatnonzero(arrays["bin_categorical"]).tolist():
        values = arrays["bin_values"][at[j] : at[j + 1]]
        if not np.array_equal(values, np.arange(len(values))):
            raise InputError(
                f"XGBoost knows categories as whole numbers 0, 1, 2, ...; column {j} has {values[:3].tolist()}...: "
                "number them before the fit"
            )


def _base_score(loss: str, base: Array) -> str:
    """Return where the sum of leaves begins, in the space that XGBoost transforms from."""
    if len(base) > 1:
        values = base
    elif loss == "log_loss":
        values = 1 / (1 + np.exp(-base))
    else:
        values = np.exp(base) if loss in ("poisson", "gamma") else base
    return "[" + ",".join(f"{v:.9E}" for v in values.tolist()) + "]"


def _objective(model: BoostedTrees, k: int) -> dict[str, Any]:
    if k > 1:
        return {"name": "multi:softprob", "softmax_multiclass_param": {"num_class": str(k)}}
    name = _OBJECTIVES[model.loss]
    found: dict[str, Any] = {"name": name, "reg_loss_param": {"scale_pos_weight": "1"}}
    if model.loss == "poisson":
        return {"name": name, "poisson_regression_param": {"max_delta_step": "0.7"}}
    if model.loss == "quantile":
        quantile = getattr(model, "quantile", 0.5)
        return {"name": name, "quantile_loss_param": {"quantile_alpha": f"[{quantile!r}]"}}
    return {"name": name} if model.loss in ("absolute_error", "gamma") else found


def _tree(arrays: dict[str, Array], t: int, d: int) -> dict[str, Any]:
    lo, hi = int(arrays["offset"][t]), int(arrays["offset"][t + 1])
    own = {name: arrays[name][lo:hi] for name in ("feature", "left", "value", "gain", "weight", "set_at")}
    inner, n = own["feature"] >= 0, hi - lo
    # x <= cut in our words is x < condition in theirs, both for float32 x
    above = np.nextafter(rounded_down(arrays["cut"][lo:hi], np.float32), np.float32(np.inf))
    condition = np.where(inner, above, own["value"]).astype(np.float32)
    parents = np.full(n, _NO_PARENT, np.int64)
    where = np.flatnonzero(inner)
    parents[own["left"][where]] = where
    parents[own["left"][where] + 1] = where
    left = np.where(inner, own["left"], -1)
    right = np.where(inner, own["left"] + 1, -1)
    condition[own["set_at"] >= 0] = 0.0
    return {
        "base_weights": np.where(inner, 0.0, own["value"]).astype(np.float32).tolist(),
        **_sets(own, arrays),
        "default_left": arrays["missing_left"][lo:hi].astype(int).tolist(),
        "id": t,
        "left_children": left.tolist(),
        "loss_changes": own["gain"].astype(np.float32).tolist(),
        "parents": parents.tolist(),
        "right_children": right.tolist(),
        "split_conditions": condition.tolist(),
        "split_indices": np.maximum(own["feature"], 0).tolist(),
        "split_type": (own["set_at"] >= 0).astype(int).tolist(),
        "sum_hessian": own["weight"].astype(np.float32).tolist(),
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(d),
            "num_nodes": str(n),
            "size_leaf_vector": "1",
        },
    }


def _sets(own: dict[str, Array], arrays: dict[str, Array]) -> dict[str, list[int]]:
    """Return which categories of each split go right: those in the set of XGBoost do."""
    found: dict[str, list[int]] = {f"categories{name}": [] for name in ("", "_nodes", "_segments", "_sizes")}
    bits = np.unpackbits(arrays["sets"].view(np.uint8), axis=1, bitorder="little")
    n_values = np.diff(arrays["bin_value_at"])
    for p in np.flatnonzero(own["set_at"] >= 0).tolist():
        left = bits[own["set_at"][p], 1 : 1 + n_values[own["feature"][p]]]  # code 0 is missing
        right = np.flatnonzero(left == 0)
        found["categories_nodes"].append(p)
        found["categories_segments"].append(len(found["categories"]))
        found["categories_sizes"].append(len(right))
        found["categories"].extend(right.tolist())
    return found
