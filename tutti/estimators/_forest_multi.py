"""Several labels of a row: their indicators are the targets of a regression, whose splits and leaves are the same.

The sum of the variances of a label's indicators, sum p (1 - p), is its Gini impurity 1 - sum p^2, and the mean of an
indicator in a leaf is the share of its class, of which the entropy follows as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.estimators._categories import Categories
from tutti.estimators._classifier import class_factors
from tutti.estimators._intake import refuse_infinity
from tutti.estimators._linear import labels_array
from tutti.learners.forest import ForestLearner
from tutti.types import Array, Csr, Schema


@dataclass(frozen=True)
class Intake:
    """What a fit was given, made one thing.

    Parameters
    ----------
    dataset : rows; their last ``n_targets`` columns are targets, 0: y is the target.
    task : as the Dataset is scanned.
    label_dtype : type of the caller's labels.
    names : of the columns where the Dataset does not know them.
    classes : of each of several labels.
    """

    categories: Categories
    dataset: Any
    task: str
    label_dtype: Any = None
    n_targets: int = 0
    names: tuple[str, ...] | None = None
    classes: tuple[Array, ...] = ()


def with_targets(x: Any, target: Array, sample_weight: Any, what: str) -> tuple[Any, tuple[str, ...] | None]:
    """Return (data set whose last columns are the targets, names of the features)."""
    from tutti.data import from_arrays
    from tutti.data.convert import features

    x, names = features(x, missing=True)
    if isinstance(x, Csr):
        raise DataError(f"several {what} need dense rows: write X.toarray()")
    if len(target) != len(x):
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{len(x)}, {len(target)}]")
    both = np.column_stack([x.astype(np.float64, copy=False), target])
    dataset = from_arrays(both, np.zeros(len(x)), sample_weight=sample_weight)
    return refuse_infinity(dataset, missing=True), names


def regression(categories: Categories, x: Any, target: Array, sample_weight: Any) -> Intake:
    """Return the intake of (n_rows, n_outputs) targets."""
    if target.dtype.kind not in "biuf" or not np.isfinite(target).all():
        raise DataError("Input y contains NaN, infinity or text: write finite numbers")
    dataset, names = with_targets(x, target, sample_weight, "outputs")
    return Intake(categories, dataset, "regression", None, target.shape[1], names)


def classification(model: Any, categories: Categories, x: Any, target: Array, sample_weight: Any) -> Intake:
    """Return the intake of (n_rows, n_outputs) labels: indicators of classes, class weights in the weights."""
    from tutti.data.convert import labels, weights
    from tutti.data.labels import codes, first_bad, summarise

    _check(model, target.shape[1])
    n, given = len(target), model.class_weight
    given = None if isinstance(given, str) and given == "balanced_subsample" else given  # which belongs to the trees
    weight = None if sample_weight is None else weights(sample_weight, n)
    factors, classes, indicators = np.ones(n), [], []
    for o in range(target.shape[1]):
        y = labels(target[:, o], n)
        bad = first_bad(y)
        if bad is not None:
            raise DataError("Input y contains NaN", row=bad)
        found = summarise(y, weight)
        which = codes(y, found.classes)
        classes.append(labels_array(found.classes, y.dtype))
        indicators.append((which[:, None] == np.arange(len(found.classes))).astype(np.float64))
        schema = Schema(
            n, 0, found.classes, found.weight_sums, found.counts, float(n if weight is None else weight.sum())
        )
        factor = class_factors(given[o] if isinstance(given, list) else given, schema)
        factors = factors if factor is None else factors * np.array(factor)[which]
    if given is not None:
        weight = factors if weight is None else weight * factors
    dataset, names = with_targets(x, np.concatenate(indicators, axis=1), weight, "labels")
    width = sum(map(len, classes))
    return Intake(categories, dataset, "regression", None, width, names, tuple(classes))


def _check(model: Any, n_labels: int) -> None:
    """Refuse what forests of several labels have no form of."""
    if isinstance(model.bootstrap, str):
        hint = "several labels have no one rarest class; write class_weight='balanced_subsample', or a forest a label"
        raise ParameterError("bootstrap", model.bootstrap, hint)
    given = model.class_weight
    several = isinstance(given, list) and len(given) == n_labels and all(isinstance(w, Mapping) for w in given)
    if given is not None and given not in ("balanced", "balanced_subsample") and not several:
        hint = 'for several labels write None, "balanced", "balanced_subsample", or a list of one dict for each label'
        raise ParameterError("class_weight", given, hint)


def of_indicators(learner: ForestLearner, classes: Sequence[Array], class_weight: Any) -> ForestLearner:
    """Return a learner of splits on indicators: what the kernels call impurity is a mean over all of them."""
    part = len(classes) / learner.n_targets
    return dataclasses.replace(
        learner,
        criterion="squared_error" if learner.criterion == "gini" else learner.criterion,
        exact=True,
        n_classes=tuple(map(len, classes)),
        balanced_subsample=isinstance(class_weight, str) and class_weight == "balanced_subsample",
        min_impurity_decrease=learner.min_impurity_decrease * part,
        ccp_alpha=learner.ccp_alpha * part,
    )


def by_label(values: Array, classes: Sequence[Array]) -> list[Array]:
    """Return (n_rows, n_classes) of each label out of (n_rows, all classes)."""
    return np.split(values, np.cumsum([len(c) for c in classes])[:-1], axis=1)


def named(values: Array, classes: Sequence[Array]) -> Array:
    """Return (n_rows, n_labels) the class of the greatest value of each label."""
    found = [c[p.argmax(axis=1)] for c, p in zip(classes, by_label(values, classes), strict=True)]
    return np.column_stack(found)


def all_right(predicted: Array, y: Any, sample_weight: Any) -> float:
    """Return the (weighted) share of rows all of whose labels are predicted."""
    from tutti.data.convert import as_numpy, weights

    target = np.asarray(as_numpy(y))
    if target.shape != predicted.shape:
        raise DataError(f"y has the shape {target.shape}, the predictions {predicted.shape}")
    right = (predicted == target).all(axis=1)
    return float(np.average(right, weights=None if sample_weight is None else weights(sample_weight, len(right))))
