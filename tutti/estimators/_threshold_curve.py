"""The score of a binary classifier at many thresholds at once, from exact counts of held-out rows.

Needs scikit-learn: scores are known by its functions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics

from tutti.errors import DataError, ParameterError
from tutti.types import Array

_SPACED = 100  # thresholds for a score that must be asked anew for each of them


@dataclass(frozen=True)
class Held:
    """Rows that a fit has not seen.

    Parameters
    ----------
    values : (n,) decision values or probabilities of the positive class.
    positive : (n,) bool.
    weight : (n,) weights, or None: 1 each.
    """

    values: Array
    positive: Array
    weight: Array | None

    def check(self) -> None:
        """Raise DataError where these rows cannot rate a threshold."""
        if not np.isfinite(self.values).all():
            raise DataError("the classifier gives NaN or infinity for some validation rows: no threshold can be chosen")
        if self.positive.all() or not self.positive.any():
            raise DataError(
                "the validation rows are all of one class: no threshold can be chosen; hold out more of them"
            )


def counts(held: Held, at: Array) -> tuple[Array, Array, Array, Array]:
    """Return (tp, fp, fn, tn), float64, of "positive where value >= t" for each t in ``at``."""
    order = np.argsort(held.values, kind="stable")
    weight = np.ones(len(order)) if held.weight is None else held.weight[order]
    positive = held.positive[order]
    below = np.searchsorted(held.values[order], at, side="left")
    fn, tn = (np.concatenate([[0.0], np.cumsum(np.where(p, weight, 0.0))]) for p in (positive, ~positive))
    return fn[-1] - fn[below], tn[-1] - tn[below], fn[below], tn[below]


def candidates(parts: Sequence[Held]) -> Array:
    """Return the thresholds between which no count changes: below, between and above the distinct values."""
    v = np.unique(np.concatenate([part.values for part in parts]).astype(np.float64))
    middle = v[:-1] + (v[1:] - v[:-1]) / 2
    return np.concatenate([v[:1], np.where(middle > v[:-1], middle, v[1:]), [np.nextafter(v[-1], math.inf)]])


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def _f(tp: Array, fp: Array, fn: Array, tn: Array, beta: float = 1.0) -> Array:
    b = beta * beta
    return _ratio((1 + b) * tp, (1 + b) * tp + b * fn + fp)


def _matthews(tp: Array, fp: Array, fn: Array, tn: Array) -> Array:
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


COUNTED: dict[Any, Callable[..., Array]] = {
    metrics.balanced_accuracy_score: lambda tp, fp, fn, tn: (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2,
    metrics.accuracy_score: lambda tp, fp, fn, tn: _ratio(tp + tn, tp + fp + fn + tn),
    metrics.f1_score: _f,
    metrics.fbeta_score: _f,
    metrics.precision_score: lambda tp, fp, fn, tn: _ratio(tp, tp + fp),
    metrics.recall_score: lambda tp, fp, fn, tn: _ratio(tp, tp + fn),
    metrics.jaccard_score: lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn),
    metrics.matthews_corrcoef: _matthews,
}
"""Scores that the four counts determine."""


@dataclass(frozen=True)
class Score:
    """A score of predicted classes: larger is better.

    Parameters
    ----------
    function, sign, options : of scikit-learn's scorer.
    labels : the two classes, the positive one last.
    """

    function: Any
    sign: float
    options: dict[str, Any]
    labels: Array

    def counted(self) -> Callable[..., Array] | None:
        """Return the formula in the four counts, where there is one."""
        more = {k: v for k, v in self.options.items() if k not in ("pos_label", "beta")}
        return COUNTED.get(self.function) if more in ({}, {"average": "binary"}) else None

    def at(self, held: Held, thresholds: Array) -> Array:
        """Return the score at each threshold."""
        formula = self.counted()
        if formula is not None:
            beta = {"beta": self.options["beta"]} if "beta" in self.options else {}
            return self.sign * formula(*counts(held, thresholds), **beta)
        options = dict(self.options)
        if held.weight is not None:
            if "sample_weight" not in inspect.signature(self.function).parameters:
                raise ParameterError("scoring", self.function, "the rows have weights, which this score does not take")
            options["sample_weight"] = held.weight
        truth = self.labels[held.positive.astype(np.intp)]
        said = (self.labels[(held.values >= t).astype(np.intp)] for t in thresholds)
        return np.array([self.sign * self.function(truth, classes, **options) for classes in said])


def curve(score: Score, parts: Sequence[Held], wanted: Any) -> tuple[Array, Array]:
    """Return (thresholds, mean score of the parts at each).

    Parameters
    ----------
    wanted : None (all that differ, or 100 where the score has no formula), a number of evenly spaced thresholds, or the
        thresholds themselves.
    """
    for part in parts:
        part.check()
    if all(part.values.min() == part.values.max() for part in parts):
        raise DataError(
            "the classifier makes constant predictions on the validation rows: no threshold can tell them apart"
        )
    if wanted is None and score.counted() is not None:
        at = candidates(parts)
    elif wanted is None or isinstance(wanted, int | np.integer):
        low, high = (end([end(part.values) for part in parts]) for end in (np.min, np.max))
        at = np.linspace(low, high, _SPACED if wanted is None else int(wanted))
    else:
        at = np.asarray(wanted, dtype=np.float64)
    return at, np.mean([score.at(part, at) for part in parts], axis=0)
