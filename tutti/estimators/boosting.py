"""Boosted trees: classifier and regressor, at the speed of the specialists, the same bits for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.estimators._boosted import BoostedTrees
from tutti.estimators._classifier import accuracy, check_classes, class_factors
from tutti.estimators._intake import is_dataset
from tutti.estimators._linear import require_real
from tutti.estimators._probability import expit, log_expit, log_softmax
from tutti.estimators.linear import r2
from tutti.types import Array, Schema


class GradientBoostingClassifier(BoostedTrees):
    """Boosted trees for two and more classes, on the log loss:

        F_t(x) = F_(t-1)(x) + learning_rate * tree_t(x),    p = 1 / (1 + exp(-F)) or softmax(F),

    where a leaf of tree t holds -sum g / (sum h + l2_regularization) of its rows, g and h the gradient and the hessian
    of the loss at F_(t-1).  Columns are cut into at most 255 bins; NaN is a value of its own, and each split learns
    where it goes.  Gradients are counted as whole numbers (see `tutti.learners.boosting`), so the model has the same
    bits for any number of workers.

    Parameters
    ----------
    loss : "log_loss".
    learning_rate : factor of every leaf, > 0.
    n_estimators : rounds; each grows a tree, or one for each of three and more classes.
    max_depth, max_leaf_nodes : bounds of a tree; at most one of them None.
    grow : "depthwise" splits all nodes of a level, "leafwise" the node that gains most.
    min_samples_leaf : least rows of a leaf.
    min_child_weight : least sum of hessians of a leaf.
    min_gain : least gain of a split.
    l2_regularization : added to the hessian of every leaf.
    subsample : part of the rows that is drawn for a round.
    max_features : columns that a node tries: None (all), "sqrt", "log2", a number or a part.
    max_bins : most bins of a column, 2 to 255, missing values apart.
    monotonic_cst : 1, -1 or 0 for each column, or {column: sign}; two classes only.
    interaction_cst : columns that may meet on the path to a leaf: groups of numbers or names (those in no group are one
        of their own), "pairwise" (any two), "no_interactions" (each alone), or None (all).
    categorical_features : columns whose values are names: numbers, names or a mask.
    class_weight : None, {class: weight}, or "balanced".
    early_stopping : hold back rows, and stop when their loss gets no better.
    validation_fraction : part of the rows that is held back.
    n_iter_no_change, tol : stop after so many rounds in which the loss has not become smaller by ``tol``.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True goes on from the trees of the last fit.
    strategy : "auto" or tutti.AllReduce().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    classes_ : (n_classes,) sorted labels.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_, n_estimators_ : rounds.
    train_score_, validation_score_ : mean loss after each round, of the rows that train and of those held back.
    feature_importances_ : part of each column in the sum of all gains.
    model_ : the trees as flat arrays.
    history_ : one dict per round: step, seconds, loss, validation_loss.
    plan_, report_ : what was planned, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X, y = np.arange(40.0)[:, None], np.arange(40) // 10 % 2
    >>> GradientBoostingClassifier(n_estimators=20, min_child_weight=0.1).fit(X, y).predict([[3.0], [12.0]]).tolist()
    [0, 1]
    """

    _estimator_type: ClassVar[str] = "classifier"
    _task: ClassVar[str] = "classification"
    _losses: ClassVar[tuple[str, ...]] = ("log_loss",)
    class_weight: Any
    classes_: Array

    def __init__(
        self,
        *,
        loss: str = "log_loss",
        learning_rate: float = 0.1,
        n_estimators: int = 100,
        max_depth: int | None = 6,
        max_leaf_nodes: int | None = None,
        grow: str = "depthwise",
        min_samples_leaf: int = 1,
        min_child_weight: float = 1.0,
        min_gain: float = 0.0,
        l2_regularization: float = 1.0,
        subsample: float = 1.0,
        max_features: Any = None,
        max_bins: int = 255,
        monotonic_cst: Any = None,
        interaction_cst: Any = None,
        categorical_features: Any = None,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.loss = loss
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.max_leaf_nodes = max_leaf_nodes
        self.grow = grow
        self.min_samples_leaf = min_samples_leaf
        self.min_child_weight = min_child_weight
        self.min_gain = min_gain
        self.l2_regularization = l2_regularization
        self.subsample = subsample
        self.max_features = max_features
        self.max_bins = max_bins
        self.monotonic_cst = monotonic_cst
        self.interaction_cst = interaction_cst
        self.categorical_features = categorical_features
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.warm_start = warm_start
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def decision_function(self, X: Any) -> Array:
        """Return F: (n_rows,) log odds of the second of two classes, else (n_rows, n_classes)."""
        return _narrow(self._raw(X))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row of arrays, of frames, or of a Dataset in the order of its rows."""
        return self._labels(self.decision_function(X))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_rows, n_classes), in the order of ``classes_``."""
        return _proba(self.decision_function(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the natural logarithm of `predict_proba`, exact where the probability itself would underflow."""
        values = self.decision_function(X)
        return np.column_stack([log_expit(-values), log_expit(values)]) if values.ndim == 1 else log_softmax(values)

    def staged_decision_function(self, X: Any) -> Iterator[Array]:
        """Yield what `decision_function` returns after each round."""
        return map(_narrow, self._staged(X))

    def staged_predict(self, X: Any) -> Iterator[Array]:
        """Yield what `predict` returns after each round."""
        return map(self._labels, self.staged_decision_function(X))

    def staged_predict_proba(self, X: Any) -> Iterator[Array]:
        """Yield what `predict_proba` returns after each round."""
        return map(_proba, self.staged_decision_function(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy: the (weighted) share of rows whose class is predicted; a Dataset brings its labels."""
        if is_dataset(X):
            y, sample_weight = self._labels_of(X)
            hit = self.predict(X) == self.classes_[y]
            return float(np.average(hit, weights=sample_weight))
        return accuracy(self.predict(X), y, sample_weight)

    def _labels(self, values: Array) -> Array:
        index = (values > 0).astype(np.intp) if values.ndim == 1 else values.argmax(axis=1)
        found: Array = self.classes_[index]
        return found

    def _of_task(self, schema: Schema) -> dict[str, Any]:
        check_classes(schema, type(self).__name__)
        if self.monotonic_cst is not None and len(schema.classes or ()) > 2:
            raise ParameterError("monotonic_cst", self.monotonic_cst, "it needs two classes; with more, write None")
        return {"loss": "log_loss", "class_weight": class_factors(self.class_weight, schema)}


class GradientBoostingRegressor(BoostedTrees):
    """Boosted trees for a number:

        F_t(x) = F_(t-1)(x) + learning_rate * tree_t(x),    prediction = F, or exp(F) for "poisson" and "gamma",

    grown as those of `GradientBoostingClassifier`.  With the absolute and the quantile loss a leaf holds the weighted
    quantile of what its rows still lack (the smallest value at or below which lies that part of the weight).  With the
    Poisson loss a leaf holds at most 0.7 and a hessian is e^0.7 exp(F), as in XGBoost: a few huge targets move it by
    bounded steps, each of which makes the loss smaller.  With the gamma loss, y exp(-F) + F, a leaf holds at least -1.

    Parameters
    ----------
    loss : "squared_error", "absolute_error", "quantile", "poisson" (targets >= 0) or "gamma" (targets > 0).
    quantile : the part of the rows that should lie below the prediction, for loss="quantile".
    learning_rate : factor of every leaf, > 0.
    n_estimators : rounds; each grows a tree.
    max_depth, max_leaf_nodes : bounds of a tree; at most one of them None.
    grow : "depthwise" splits all nodes of a level, "leafwise" the node that gains most.
    min_samples_leaf : least rows of a leaf.
    min_child_weight : least sum of hessians of a leaf (the sum of weights but for "poisson" and "gamma").
    min_gain : least gain of a split.
    l2_regularization : added to the hessian of every leaf.
    subsample : part of the rows that is drawn for a round.
    max_features : columns that a node tries: None (all), "sqrt", "log2", a number or a part.
    max_bins : most bins of a column, 2 to 255, missing values apart.
    monotonic_cst : 1, -1 or 0 for each column, or {column: sign}.
    interaction_cst : columns that may meet on the path to a leaf: groups of numbers or names (those in no group are one
        of their own), "pairwise" (any two), "no_interactions" (each alone), or None (all).
    categorical_features : columns whose values are names: numbers, names or a mask.
    early_stopping : hold back rows, and stop when their loss gets no better.
    validation_fraction : part of the rows that is held back.
    n_iter_no_change, tol : stop after so many rounds in which the loss has not become smaller by ``tol``.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True goes on from the trees of the last fit.
    strategy : "auto" or tutti.AllReduce().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_, n_estimators_ : rounds.
    train_score_, validation_score_ : mean loss after each round, of the rows that train and of those held back.
    feature_importances_ : part of each column in the sum of all gains.
    model_ : the trees as flat arrays.
    history_ : one dict per round: step, seconds, loss, validation_loss.
    plan_, report_ : what was planned, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X = np.arange(100.0)[:, None]
    >>> model = GradientBoostingRegressor(n_estimators=100).fit(X, X[:, 0] ** 2)
    >>> model.score(X, X[:, 0] ** 2) > 0.99
    True
    """

    _estimator_type: ClassVar[str] = "regressor"
    _task: ClassVar[str] = "regression"
    _losses: ClassVar[tuple[str, ...]] = ("squared_error", "absolute_error", "quantile", "poisson", "gamma")
    quantile: float

    def __init__(
        self,
        *,
        loss: str = "squared_error",
        quantile: float = 0.5,
        learning_rate: float = 0.1,
        n_estimators: int = 100,
        max_depth: int | None = 6,
        max_leaf_nodes: int | None = None,
        grow: str = "depthwise",
        min_samples_leaf: int = 1,
        min_child_weight: float = 1.0,
        min_gain: float = 0.0,
        l2_regularization: float = 1.0,
        subsample: float = 1.0,
        max_features: Any = None,
        max_bins: int = 255,
        monotonic_cst: Any = None,
        interaction_cst: Any = None,
        categorical_features: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.loss = loss
        self.quantile = quantile
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.max_leaf_nodes = max_leaf_nodes
        self.grow = grow
        self.min_samples_leaf = min_samples_leaf
        self.min_child_weight = min_child_weight
        self.min_gain = min_gain
        self.l2_regularization = l2_regularization
        self.subsample = subsample
        self.max_features = max_features
        self.max_bins = max_bins
        self.monotonic_cst = monotonic_cst
        self.interaction_cst = interaction_cst
        self.categorical_features = categorical_features
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.warm_start = warm_start
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def predict(self, X: Any) -> Array:
        """Return the prediction of each row of arrays, of frames, or of a Dataset in the order of its rows."""
        return self._mean(self._raw(X))

    def staged_predict(self, X: Any) -> Iterator[Array]:
        """Yield what `predict` returns after each round."""
        return map(self._mean, self._staged(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2 = 1 - sum s (y - prediction)^2 / sum s (y - mean)^2; a Dataset brings its targets."""
        if is_dataset(X):
            y, sample_weight = self._labels_of(X)
            return r2(y, self.predict(X), sample_weight)
        from tutti.data.convert import labels, weights

        predicted = self.predict(X)
        target = labels(y, len(predicted)).astype(np.float64)
        return r2(target, predicted, None if sample_weight is None else weights(sample_weight, len(target)))

    def _mean(self, raw: Array) -> Array:
        values = raw[:, 0].copy()
        return np.exp(values) if self.loss in ("poisson", "gamma") else values

    def _check_params(self) -> None:
        super()._check_params()
        require_real("quantile", self.quantile, 0.0, inclusive=False, wanted="a part of the rows such as 0.9")
        if self.quantile >= 1:
            raise ParameterError("quantile", self.quantile, "write a part of the rows, below 1")

    def _of_task(self, schema: Schema) -> dict[str, Any]:
        if schema.weight_sum <= 0:
            raise DataError("sample_weight is zero for every row: nothing would be learned")
        return {"loss": self.loss, "quantile": float(self.quantile)}


def _narrow(raw: Array) -> Array:
    return raw[:, 0].copy() if raw.shape[1] == 1 else raw


def _proba(values: Array) -> Array:
    if values.ndim == 1:
        return np.column_stack([expit(-values), expit(values)])
    return np.exp(log_softmax(values))
