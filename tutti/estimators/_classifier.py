"""What linear classifiers share: class weights, labels, decision values, accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.estimators._intake import is_dataset
from tutti.estimators._linear import LinearEstimator, require_real
from tutti.types import Array, Schema


class LinearClassifier(LinearEstimator):
    """Decision values, labels and accuracy of a linear classifier."""

    _estimator_type: ClassVar[str] = "classifier"
    _task: ClassVar[str] = "classification"
    C: float
    class_weight: Any
    classes_: Array

    def decision_function(self, X: Any) -> Array:
        """Return X W' + b: (n_rows,) for two classes (positive: the second class), else (n_rows, n_classes)."""
        values = self._decide(X)
        return values[:, 0] if values.shape[1] == 1 else values

    def predict(self, X: Any) -> Array:
        """Return the class of each row of arrays, of frames, or of a Dataset in the order of its rows."""
        index = self._index(self.decision_function(X))
        found: Array = self.classes_[index]
        return found

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy: the (weighted) share of rows whose class is predicted; a Dataset brings its labels."""
        if is_dataset(X):
            values, codes, weight = self._labelled(X)
            hit = self._index(values[:, 0] if values.shape[1] == 1 else values) == codes
            return float(np.average(hit, weights=weight))
        return accuracy(self.predict(X), y, sample_weight)

    def _index(self, values: Array) -> Array:
        return (values > 0).astype(np.intp) if values.ndim == 1 else values.argmax(axis=1)

    def _check_params(self) -> None:
        super()._check_params()
        require_real("C", self.C, 0.0, inclusive=False, wanted="the inverse strength of the regularisation")
        cw = self.class_weight
        if cw is not None and cw != "balanced" and not isinstance(cw, Mapping):
            raise ParameterError("class_weight", cw, 'write None, "balanced" or a dict {class: weight}')

    def _class_weight(self, schema: Schema) -> tuple[float, ...] | None:
        """Return one factor per class, in the order of ``schema.classes``."""
        return class_factors(self.class_weight, schema)


def class_factors(given: Any, schema: Schema, *, by_rows: bool = False) -> tuple[float, ...] | None:
    """Return one factor per class, in the order of ``schema.classes``, of a parameter ``class_weight``.

    ``by_rows`` lets "balanced" count rows, as libsvm's machines in scikit-learn do, in place of their sample weights.

    Raises
    ------
    ParameterError : neither None, "balanced" nor a dict; an unknown class; a weight that is not > 0.
    """
    classes, sums = schema.classes or (), schema.class_weight_sums or ()
    if given is None:
        return None
    if isinstance(given, str) and given == "balanced":
        counts = (schema.class_counts or ()) if by_rows else sums
        total = schema.n_rows if by_rows else schema.weight_sum
        return tuple(total / (len(classes) * n) for n in counts)
    if not isinstance(given, Mapping):
        raise ParameterError("class_weight", given, 'write None, "balanced" or a dict {class: weight}')
    unknown = [c for c in given if c not in classes]
    if unknown:
        known = ", ".join(map(repr, classes))
        raise ParameterError("class_weight", given, f"{unknown[0]!r} is not among the classes {known}")
    for value in given.values():
        require_real("class_weight", value, 0.0, inclusive=False, wanted="one weight per class")
    return tuple(float(given.get(c, 1.0)) for c in classes)


def accuracy(predicted: Array, y: Any, sample_weight: Any = None) -> float:
    """Return the (weighted) share of rows whose class is predicted."""
    from tutti.data.convert import labels, weights

    right = np.asarray(predicted == labels(y, len(predicted)))
    return float(np.average(right, weights=None if sample_weight is None else weights(sample_weight, len(right))))


def check_classes(schema: Schema, name: str) -> None:
    """Raise DataError unless at least two classes have rows that weigh something."""
    classes, sums = schema.classes or (), schema.class_weight_sums or ()
    if len(classes) < 2:
        raise DataError(
            f"{name} needs samples of at least 2 classes in the data, but the data contains only one class: "
            f"{', '.join(map(repr, classes))}"
        )
    for c, total in zip(classes, sums, strict=True):
        if not total > 0:
            raise DataError(
                f"the sample weights of class {c!r} sum to zero: leave those rows out, or give one of them a weight"
            )
