"""A binary classifier whose threshold is chosen on held-out rows: scikit-learn's own, with Datasets and workers.

This module needs scikit-learn and is loaded when the estimator is first named.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import StratifiedShuffleSplit, TunedThresholdClassifierCV, check_cv
from sklearn.utils import _safe_indexing as rows_of
from sklearn.utils import column_or_1d, indexable
from sklearn.utils._response import _get_response_values_binary
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from tutti.errors import DataError, InputError, ModelError, ParameterError
from tutti.estimators._base import Estimator, NotFittedError, known_to_sklearn
from tutti.estimators._intake import as_dataset, is_dataset
from tutti.estimators._search_deal import Dealer
from tutti.estimators._threshold_curve import Held, Score, curve
from tutti.seeds import run_seed
from tutti.types import Array

_DATASET_SHARE = 0.2


class Fold:
    """One fit and the values of the rows it has not seen, as a unit of work for `Dealer`."""

    def __init__(self, number: int, model: Any, rows: tuple[Any, Any, Any], cut: tuple[Any, Any], how: Any) -> None:
        self.number, self._model, self._rows, self._cut, self._how = number, model, rows, cut, how

    def fitted(self) -> Any:
        """Return the model, fitted on the rows of this fold."""
        x, y, weight = (None if part is None else rows_of(part, self._cut[0]) for part in self._rows)
        return self._model.fit(x, y) if weight is None else self._model.fit(x, y, sample_weight=weight)

    def values(self, model: Any) -> Array:
        """Return the values of the held-out rows."""
        return values_of(model, rows_of(self._rows[0], self._cut[1]), self._how)

    def alone(self) -> dict[str, Any]:
        """Fit, and return what can be written as JSON."""
        return {"values": self.values(self.fitted()).tolist()}

    def bare(self) -> Fold:
        """Return what travels: all of it."""
        return self


def values_of(model: Any, x: Any, how: tuple[Any, Any]) -> Array:
    """Return probabilities of, or decision values for, the positive class; ``how`` is (methods, positive class)."""
    found, _ = _get_response_values_binary(model, x, how[0], pos_label=how[1])
    return np.asarray(found, dtype=np.float64)


class TunedThresholdClassifier(TunedThresholdClassifierCV):  # type: ignore[misc]
    """A binary classifier that says "positive" from the threshold on that scores best on rows it was not fitted on.

        threshold = the t of best mean over folds of score(y, value(x) >= t)

    Parameters
    ----------
    estimator : a binary classifier with ``predict_proba`` or ``decision_function``, tutti's or scikit-learn's.
    scoring : name of a score of predicted classes, or a scorer of `sklearn.metrics.make_scorer`.
    response_method : "auto" (probabilities where there are some), "predict_proba" or "decision_function".
    thresholds : None tries every threshold that makes a difference, by exact counts, where the score is determined by
        true and false positives and negatives (balanced accuracy, accuracy, F, precision, recall, Jaccard, Matthews),
        else 100 evenly spaced ones; a number of evenly spaced ones; or the thresholds themselves.
    cv : which rows are held out.  Arrays: as for scikit-learn (None: 5 folds; a share; a splitter; "prefit").  A
        Dataset: a share (None: 0.2), drawn from each class in proportion; or "prefit": all rows, for a fitted
        ``estimator``.
    refit : True fits once more on all rows; False keeps the fit of the only split.
    random_state : None (means 0), int or RandomState of the draw of a share.
    store_cv_results : True keeps ``cv_results_``.
    engine, strategy : where the fits of several folds of arrays run, as for `tutti.GridSearchCV`.

    Attributes
    ----------
    best_threshold_, best_score_ : the threshold, and the mean score that it had on held-out rows.
    estimator_ : the fitted classifier.   classes_, n_features_in_, feature_names_in_ : its own.
    cv_results_ : {"thresholds", "scores"}, if asked for.

    Example
    -------
    >>> import numpy as np, tutti
    >>> X = np.arange(100.0).reshape(-1, 1) % 10
    >>> y = (X[:, 0] > 8).astype(int)
    >>> plain = tutti.LogisticRegression(C=0.01).fit(X, y)
    >>> tuned = tutti.TunedThresholdClassifier(tutti.LogisticRegression(C=0.01)).fit(X, y)
    >>> int(plain.predict(X).sum()), int(tuned.predict(X).sum())
    (0, 10)
    """

    n_jobs = None  # the engine says how many
    _defaults = Estimator.__dict__["_defaults"]

    def __init__(
        self,
        estimator: Any,
        *,
        scoring: Any = "balanced_accuracy",
        response_method: str = "auto",
        thresholds: Any = None,
        cv: Any = None,
        refit: bool = True,
        random_state: Any = None,
        store_cv_results: bool = False,
        engine: Any = "auto",
        strategy: Any = "auto",
    ) -> None:
        self.estimator = estimator
        self.scoring = scoring
        self.response_method = response_method
        self.thresholds = thresholds
        self.cv = cv
        self.refit = refit
        self.random_state = random_state
        self.store_cv_results = store_cv_results
        self.engine = engine
        self.strategy = strategy

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the classifier and choose its threshold.

        Parameters
        ----------
        X, y : arrays as for the estimator; a Dataset; or a file and the name of its column of labels.
        sample_weight : (n_rows,) weights, for the fit and for the score.

        Raises
        ------
        DataError : more than two classes; validation rows of one class; a classifier that is constant on them.
        """
        self._check_options()
        self._curve_scorer = self._get_curve_scorer()
        if is_dataset(X) or isinstance(X, str | os.PathLike) or y is None:
            dataset, _ = as_dataset(X, y, sample_weight, type(self).__name__)
            parts = [self._fit_dataset(dataset)]
        else:
            parts = self._fit_arrays(X, y, sample_weight)
        at, scores = curve(self._score(), parts, self.thresholds)
        best = int(np.argmax(scores))
        self.best_threshold_, self.best_score_ = at[best], float(scores[best])
        if self.store_cv_results:
            self.cv_results_ = {"thresholds": at, "scores": scores}
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy of `predict`; a Dataset brings its labels and weights."""
        if not is_dataset(X):
            return float(super().score(X, y, sample_weight))
        check_is_fitted(self, "estimator_")
        codes, weight = _labels(self.estimator_, X)
        return float(np.average(self.predict(X) == self.classes_[codes], weights=weight))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the threshold and the fitted classifier, one of tutti's own, as a folder that `tutti.load` reads."""
        from tutti.estimators.store import save

        save(self, path)

    def get_metadata_routing(self) -> Any:
        """Return scikit-learn's description of the metadata that ``fit`` and ``score`` consume."""
        return self._get_metadata_request()

    # checks

    def _check_options(self) -> None:
        for name in ("refit", "store_cv_results"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ParameterError(name, getattr(self, name), "write True or False")
        if self.response_method not in ("auto", "predict_proba", "decision_function"):
            raise ParameterError(
                "response_method", self.response_method, 'write "auto", "predict_proba" or "decision_function"'
            )
        t = self.thresholds
        wrong = isinstance(t, bool | str) or (isinstance(t, numbers.Integral) and t < 1)
        if wrong or (t is not None and not isinstance(t, numbers.Integral) and np.ndim(t) != 1) or np.size(t) == 0:
            raise ParameterError("thresholds", t, "write None, how many to try, or a list of them")
        if not any(hasattr(self.estimator, name) for name in ("predict_proba", "decision_function")):
            raise ParameterError("estimator", self.estimator, "a threshold needs predict_proba or decision_function")
        if isinstance(self.cv, str) and self.cv != "prefit":
            raise ParameterError("cv", self.cv, 'write None, a share, a number of folds, a splitter or "prefit"')
        if isinstance(self.cv, float) and not 0 < self.cv < 1:
            raise ParameterError("cv", self.cv, "write a share of the rows between 0 and 1, or a whole number of folds")
        if self._prefit():
            if self.refit:
                raise ParameterError(
                    "refit", self.refit, 'cv="prefit" leaves the classifier as it is: write refit=False'
                )
            check_is_fitted(self.estimator, "classes_")

    def _prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    def _get_curve_scorer(self) -> Any:
        scorer = check_scoring(self.estimator, scoring=self.scoring)
        if getattr(scorer, "_response_method", None) != "predict":
            raise ParameterError(
                "scoring",
                self.scoring,
                'a threshold changes scores of predicted classes only: write a name such as "balanced_accuracy" or '
                '"f1", or sklearn.metrics.make_scorer(function of (y_true, y_pred))',
            )
        return super()._get_curve_scorer()

    def _score(self) -> Score:
        scorer, classes = self._curve_scorer, self.classes_
        positive = _index(classes, scorer._get_pos_label())
        return Score(scorer._score_func, scorer._sign, scorer._kwargs, classes[[1 - positive, positive]])

    # rows that were not fitted

    def _fit_arrays(self, X: Any, y: Any, weight: Any) -> list[Held]:
        """Set ``estimator_``; return the rows held out, one `Held` per split."""
        X, y, weight = indexable(X, y, weight)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise DataError(f"Only binary classification is supported. The type of the target is {kind}.")
        label, w = column_or_1d(y), None if weight is None else np.asarray(weight, dtype=np.float64)
        known = self.estimator.classes_ if self._prefit() else np.unique(label)
        if len(known) != 2:
            raise DataError(_not_two(known.tolist()))
        scorer_label = self._curve_scorer._get_pos_label()
        how = self._get_response_method(), known[_index(known, scorer_label)]
        if self._prefit():
            self.estimator_ = self.estimator
            return [Held(values_of(self.estimator, X, how), label == how[1], w)]
        folds = self._folds(X, y, weight, how)
        if len(folds) == 1:
            self.estimator_ = folds[0][0].fitted()
            values = [folds[0][0].values(self.estimator_)]
        else:
            values = self._dealt([fold for fold, _ in folds])
        if self.refit:
            fresh = clone(self.estimator)
            self.estimator_ = fresh.fit(X, y) if weight is None else fresh.fit(X, y, sample_weight=weight)
        return [
            Held(v, label[held] == how[1], None if w is None else w[held])
            for v, (_, held) in zip(values, folds, strict=True)
        ]

    def _folds(self, X: Any, y: Any, weight: Any, how: Any) -> list[tuple[Fold, Any]]:
        if isinstance(self.cv, float):
            seed = run_seed(self.random_state) % 2**32
            cv: Any = StratifiedShuffleSplit(n_splits=1, test_size=self.cv, random_state=seed)
        else:
            cv = check_cv(self.cv, y=y, classifier=True)
        cuts = list(cv.split(X, y))
        if len(cuts) > 1 and not self.refit:
            raise ParameterError("refit", self.refit, f"cv makes {len(cuts)} fits: which to keep? Write refit=True")
        return [(Fold(i, clone(self.estimator), (X, y, weight), cut, how), cut[1]) for i, cut in enumerate(cuts)]

    def _dealt(self, folds: list[Fold]) -> list[Array]:
        found: dict[int, Array] = {}

        def done(unit: Any, outcomes: list[dict[str, Any]]) -> None:
            found[unit[0].number] = np.array(outcomes[0]["values"], dtype=np.float64)

        Dealer(self.engine, self.strategy)([[fold] for fold in folds], done)
        return [found[i] for i in range(len(folds))]

    def _fit_dataset(self, dataset: Any) -> Held:
        """Set ``estimator_``; return the rows held out."""
        if not isinstance(self.estimator, Estimator):
            raise InputError(
                f"{type(self.estimator).__name__} is not one of tutti's: fit it on arrays, not on a Dataset"
            )
        if self.cv is not None and not self._prefit() and not isinstance(self.cv, float):
            raise ParameterError(
                "cv", self.cv, 'of a Dataset, hold out a share of the rows, such as cv=0.2, or "prefit"'
            )
        if self._prefit():
            self.estimator_, held = self.estimator, dataset
        else:
            if len(dataset.classes) != 2:
                raise DataError(_not_two(list(dataset.classes)))
            share = _DATASET_SHARE if self.cv is None else self.cv
            train, held = dataset.split(share, random_state=run_seed(self.random_state), stratify=True)
            self.estimator_ = clone(self.estimator).fit(train)
        classes = self.estimator_.classes_
        if len(classes) != 2:
            raise DataError(_not_two(classes.tolist()))
        positive = _index(classes, self._curve_scorer._get_pos_label())
        codes, weight = _labels(self.estimator_, held)
        values = values_of(self.estimator_, held, (self._get_response_method(), classes[positive]))
        if self.refit and not self._prefit():
            self.estimator_ = clone(self.estimator).fit(dataset)
        return Held(values, codes == positive, weight)

    # storage

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "best_threshold_")

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise known_to_sklearn(NotFittedError)(f"this {type(self).__name__} is not fitted yet: call fit first")

    def _params_to_store(self) -> dict[str, Any]:
        return {name: value for name, value in self.get_params(deep=False).items() if name != "estimator"}

    @classmethod
    def _params_from_store(cls, params: Mapping[str, Any], facts: Mapping[str, Any], module: Any) -> dict[str, Any]:
        inner = facts["estimator"]
        kind = _saved_class(inner["class"])
        return {**params, "estimator": kind(**kind._params_from_store(inner["params"], inner, module))}

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        inner = self.estimator_
        if not isinstance(inner, Estimator):
            raise ParameterError("estimator", inner, "a model folder holds tutti's own estimators")
        arrays, facts = inner._to_store()  # type: ignore[attr-defined]
        chosen = {"best_threshold": float(self.best_threshold_), "best_score": self.best_score_}
        described = {"class": type(inner).__name__, "params": inner._params_to_store(), **facts}
        return arrays, {**chosen, "estimator": described}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        self._curve_scorer = self._get_curve_scorer()
        self.estimator_ = clone(self.estimator)
        self.estimator_._from_store(arrays, facts["estimator"])
        self.best_threshold_, self.best_score_ = np.float64(facts["best_threshold"]), float(facts["best_score"])
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))


def _saved_class(name: Any) -> Any:
    from tutti.estimators.store import resolve_estimator

    kind = resolve_estimator(name)
    if kind is None or kind is TunedThresholdClassifier:
        raise ModelError(f"the classifier {name!r} is none that a model folder with a threshold holds")
    return kind


def _not_two(classes: list[Any]) -> str:
    if len(classes) < 2:
        return f"A threshold needs two classes, but the data contains only one class: {', '.join(map(repr, classes))}"
    return (
        f"Only binary classification is supported. The type of the target is multiclass: {len(classes)} classes, "
        f"{', '.join(map(repr, classes[:5]))}{', ...' if len(classes) > 5 else ''}"
    )


def _index(classes: Array, label: Any) -> int:
    """Return the number of the positive class: that of the score's pos_label, else the second one."""
    if label is None:
        return 1
    (found,) = np.nonzero(classes == label)
    if not len(found):
        raise ParameterError(
            "scoring",
            label,
            f"the positive class of this score is {label!r}, the classes are {classes.tolist()}: name one of them, "
            f"sklearn.metrics.make_scorer(f1_score, pos_label={classes.tolist()[1]!r})",
        )
    return int(found[0])


def _labels(model: Any, dataset: Any) -> tuple[Array, Array | None]:
    """Return (class codes, weights) of all rows of a Dataset, in their order."""
    codes, weights = [], []
    for block in dataset.predict_blocks(model.n_features_in_, tuple(model.classes_.tolist())):
        if not len(block.y):
            raise DataError("the Dataset has no labels to compare with: name the label column when reading it")
        codes.append(block.y)
        if block.weight is not None:
            weights.append(block.weight)
    return np.concatenate(codes), np.concatenate(weights) if weights else None
