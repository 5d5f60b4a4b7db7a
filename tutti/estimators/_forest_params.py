"""The parameters of forests: ranges, and what they mean for a data set."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.estimators._boosted_params import signs_of
from tutti.estimators._linear import require_real, require_whole
from tutti.learners.forest import ForestLearner
from tutti.types import Schema

_REFUSED = {
    "friedman_mse": "it differs from squared_error in boosting alone; write 'squared_error'",
    "absolute_error": "medians of bins cannot be added up exactly; write 'squared_error'",
    "poisson": "write 'squared_error'; forests of other losses are not there",
}


def check(model: Any, criteria: tuple[str, ...]) -> None:
    """Raise ParameterError for the first parameter that is out of its range."""
    require_whole("n_estimators", model.n_estimators, 1, "a whole number of trees, at least 1")
    if model.criterion not in criteria:
        hint = _REFUSED.get(str(model.criterion), f"write one of {', '.join(map(repr, criteria))}")
        raise ParameterError("criterion", model.criterion, hint)
    if model.max_depth is not None:
        require_whole("max_depth", model.max_depth, 1, "None (no bound) or a whole number of at least 1")
    if model.max_leaf_nodes is not None:
        require_whole("max_leaf_nodes", model.max_leaf_nodes, 2, "None (no bound) or a whole number of at least 2")
    _count_or_share("min_samples_split", model.min_samples_split, 2)
    _count_or_share("min_samples_leaf", model.min_samples_leaf, 1)
    require_real("min_weight_fraction_leaf", model.min_weight_fraction_leaf, 0.0, inclusive=True, wanted="0 to 0.5")
    if model.min_weight_fraction_leaf > 0.5:
        raise ParameterError("min_weight_fraction_leaf", model.min_weight_fraction_leaf, "write a share of 0 to 0.5")
    for name in ("min_impurity_decrease", "ccp_alpha"):
        require_real(name, getattr(model, name), 0.0, inclusive=True, wanted="0 (off) or more")
    require_whole("n_shards", model.n_shards, 1, "a whole number of at least 1 (the default is 8)")
    _check_switches(model)
    if model.oob_score and not model.bootstrap:
        raise ParameterError("oob_score", model.oob_score, "Out of bag estimation only available if bootstrap=True")
    if model.max_samples is not None and not model.bootstrap:
        raise ParameterError("max_samples", model.max_samples, "it belongs to bootstrap=True; leave it None without")


def _check_switches(model: Any) -> None:
    if not isinstance(model.warm_start, bool | np.bool_):
        raise ParameterError("warm_start", model.warm_start, "write True or False")
    if not isinstance(model.oob_score, bool | np.bool_) and not callable(model.oob_score):
        raise ParameterError("oob_score", model.oob_score, "write True, False, or a function (y, predicted) -> float")
    if isinstance(model.bootstrap, bool | np.bool_):
        return
    if model._task == "regression":
        balanced = isinstance(model.bootstrap, str) and model.bootstrap == "balanced"
        more = "; there are no classes to balance" if balanced else ""
        raise ParameterError("bootstrap", model.bootstrap, f"write True or False{more}")
    if not isinstance(model.bootstrap, str) or model.bootstrap != "balanced":
        hint = 'write True, False, or "balanced" (as many rows of each class as the rarest has)'
        raise ParameterError("bootstrap", model.bootstrap, hint)


def is_whole(value: Any) -> bool:
    """Tell a whole number from a share."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_share(value: Any) -> bool:
    """Tell a share above 0 and up to 1.0 from anything else."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0.0 < float(value) <= 1.0


def _count_or_share(name: str, value: Any, low: int) -> None:
    if is_whole(value):
        require_whole(name, value, low, f"a whole number of at least {low}, or a share of the rows such as 0.01")
        return
    require_real(name, value, 0.0, inclusive=False, wanted=f"a whole number >= {low}, or a share of the rows above 0")
    if value > 1.0:
        raise ParameterError(name, value, f"write a whole number >= {low}, or a share of the rows up to 1.0")


def max_features(value: Any, d: int) -> int:
    """Return how many of d features are drawn for a node."""
    hint = f'write "sqrt", "log2", None (all), a whole number of 1 to {d}, or a share above 0 and up to 1.0'
    if value is None:
        return d
    if isinstance(value, str):
        if value not in ("sqrt", "log2"):
            raise ParameterError("max_features", value, hint)
        return max(1, int(math.sqrt(d) if value == "sqrt" else math.log2(d)))
    if is_whole(value):
        if not 1 <= value <= d:
            raise ParameterError("max_features", value, hint)
        return int(value)
    if is_share(value):
        return max(1, int(value * d))
    raise ParameterError("max_features", value, hint)


def rate(model: Any, schema: Schema) -> float:
    """Return how often a row (balanced: of the rarest class) is expected to be drawn; 0 without bootstrap."""
    value, n_rows, what = model.max_samples, schema.n_rows, "the rows of the data"
    if model.bootstrap == "balanced":
        counts = schema.class_counts or (1,)
        n_rows, what = len(counts) * min(counts), "as many rows of each class as the rarest has"
    if not model.bootstrap:
        return 0.0
    if value is None:
        return 1.0
    if is_whole(value):
        if not 1 <= value <= n_rows:
            raise ParameterError("max_samples", value, f"write a whole number of 1 to {n_rows}, {what}")
        return float(value) / n_rows
    if is_share(value):
        return max(float(value), 1.0 / n_rows)
    raise ParameterError("max_samples", value, "write None, a number of rows, or a share above 0 and up to 1.0")


def signs(model: Any, schema: Schema, taken: Any) -> tuple[int, ...]:
    """Return 1, -1 or 0 of each column, of the parameter ``monotonic_cst`` and what a fit was given."""
    given = model.monotonic_cst
    if given is None:
        return ()
    d = schema.n_features - taken.n_targets
    names = taken.names if taken.n_targets else schema.feature_names
    found = signs_of(given, d, names, taken.categories.columns)
    if not any(found):
        return ()
    kind = None
    if taken.n_targets:
        kind = "with multiple outputs"
    elif len(schema.classes or ()) > 2:
        kind = "with multiclass classification"
    if kind is not None:
        hint = f"Monotonicity constraints are not supported {kind}; write None, or fit one forest for each"
        raise ParameterError("monotonic_cst", given, hint)
    return found if schema.classes is None or len(schema.classes) == 2 else ()


def check_weights(schema: Schema, bits: int) -> None:
    """Raise DataError for sample weights whose sums as whole numbers would not fit, or would be zero."""
    total, way_out = schema.weight_sum, "divide the weights by their mean"
    if total > 2.0**bits:
        raise DataError(f"sample_weight sums to {total:.3g}; more than 2^{bits} is not counted exactly: {way_out}")
    if total < schema.n_rows * 2.0**-30:
        raise DataError(f"sample_weight has the mean {total / schema.n_rows:.3g}, too small to be counted: {way_out}")


def learner_of(model: Any, schema: Schema, n_trees: int, **more: Any) -> ForestLearner:
    """Return the learner that the parameters ask for.

    Raises
    ------
    ParameterError : more rows or features are asked for than the data has.
    DataError : sample weights that are too large or too small to be counted.
    """
    check_weights(schema, 48 if schema.classes is not None else 40)
    n = schema.n_rows
    d = schema.n_features - more.get("n_targets", 0)
    leaf, split = model.min_samples_leaf, model.min_samples_split
    if is_whole(leaf) and leaf > n:
        raise ParameterError("min_samples_leaf", leaf, f"the data has {n} rows: no leaf could hold that many")
    leaf = int(leaf) if is_whole(leaf) else math.ceil(leaf * n)
    split = int(split) if is_whole(split) else max(2, math.ceil(split * n))
    return ForestLearner(
        n_trees=n_trees,
        criterion="entropy" if model.criterion == "log_loss" else str(model.criterion),
        max_depth=None if model.max_depth is None else int(model.max_depth),
        max_leaf_nodes=None if model.max_leaf_nodes is None else int(model.max_leaf_nodes),
        min_samples_split=max(split, 2 * leaf),
        min_samples_leaf=leaf,
        min_weight_leaf=float(model.min_weight_fraction_leaf),
        max_features=max_features(model.max_features, d),
        min_impurity_decrease=float(model.min_impurity_decrease),
        ccp_alpha=float(model.ccp_alpha),
        rate=rate(model, schema),
        balanced=isinstance(model.bootstrap, str),
        n_shards=int(model.n_shards),
        oob=bool(model.oob_score),
        **more,
    )
