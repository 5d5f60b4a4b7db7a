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
        from tutti.data.convert import labels, weights

        predicted = self.predict(X)
        right = np.asarray(predicted == labels(y, len(predicted)))
        return float(np.average(right, weights=None if sample_weight is None else weights(sample_weight, len(right))))

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
        classes, sums = schema.classes or (), schema.class_weight_sums or ()
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str):
            return tuple(schema.weight_sum / (len(classes) * s) for s in sums)
        given = dict(self.class_weight)
        unknown = [c for c in given if c not in classes]
        if unknown:
            raise ParameterError(
                "class_weight",
                self.class_weight,
                f"{unknown[0]!r} is not among the classes {', '.join(map(repr, classes))}",
            )
        for value in given.values():
            require_real("class_weight", value, 0.0, inclusive=False, wanted="one weight per class")
        return tuple(float(given.get(c, 1.0)) for c in classes)


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
