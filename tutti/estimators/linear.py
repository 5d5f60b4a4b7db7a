"""Logistic, ridge and least-squares regression: scikit-learn's minima, certified, on any number of workers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tutti.estimators._classifier import LinearClassifier, check_classes
from tutti.estimators._intake import is_dataset
from tutti.estimators._linear import LinearEstimator, require_real
from tutti.estimators._probability import expit, log_expit, log_softmax
from tutti.learners._problem import LinearProblem
from tutti.types import Array, Schema


class LogisticRegression(LinearClassifier):
    """Logistic regression, L2-regularised; the intercept is free.  Two classes:

        P(w, b) = 1/2 |w|^2 + C sum_i c_i s_i ln(1 + exp(-y_i (w.x_i + b))),    y_i = -1 or +1,

    and K >= 3 classes (multinomial), with u_i = W x_i + b:

        P(W, b) = 1/2 |W|^2 + C sum_i c_i s_i (ln sum_k exp(u_ik) - u_i,y_i),

    where c_i is the class weight and s_i the sample weight of row i, and b is not regularised: the minimum is that of
    scikit-learn's LogisticRegression with the same C.  The fit stops when it has proved that P is at most
    tol * P above the minimum.

    Parameters
    ----------
    C : inverse strength of the regularisation, > 0.
    fit_intercept : False fixes b = 0.
    class_weight : None, {class: weight}, or "balanced": n / (K * n_k), counted in sample weights.
    tol : relative gap (P - minimum) / P that has to be proved.
    max_iter : most rounds of the solver; None leaves it to the solver.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True starts from the weights of the last fit.
    solver : "auto", "newton", "lbfgs", or for two classes also "dual" and "sgd".
    strategy : "auto" or an object such as tutti.AllReduce().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job; part of the result, unlike the number of workers.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    coef_ : (1, n_features) for two classes, else (n_classes, n_features).
    intercept_ : (1,) or (n_classes,); of three and more classes, only differences matter, so they sum to zero.
    classes_ : (n_classes,) sorted labels.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_ : rounds.
    objective_, duality_gap_ : P at the end, and the proved bound of P - minimum.
    history_ : one dict per round: step, seconds, objective, gap, passes.
    plan_, report_ : what was planned, and what was measured.
    gradients_ : after a `tutti.Replay`, by name what the last update moved along; else empty.

    Example
    -------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["a", "a", "b", "b"])
    >>> LogisticRegression().fit(X, y).predict([[0.2], [2.8]]).tolist()
    ['a', 'b']
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-4,
        max_iter: int | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        solver: str = "auto",
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.solver = solver
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_rows, n_classes), in the order of ``classes_``."""
        values = self.decision_function(X)
        if values.ndim == 1:
            return np.column_stack([expit(-values), expit(values)])
        return np.exp(log_softmax(values))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the natural logarithm of `predict_proba`, exact where the probability itself would underflow."""
        values = self.decision_function(X)
        if values.ndim == 1:
            return np.column_stack([log_expit(-values), log_expit(values)])
        return log_softmax(values)

    def _problem(self, schema: Schema) -> LinearProblem:
        check_classes(schema, type(self).__name__)
        return LinearProblem(
            loss="logistic" if len(schema.classes or ()) == 2 else "multinomial",
            C=float(self.C),
            intercept="free" if self.fit_intercept else "none",
            class_weight=self._class_weight(schema),
        )

    def _set_weights(self, coef: Array, intercept: Array) -> None:
        # the softmax does not change when all intercepts grow alike; a sum of zero picks one representative
        centred = intercept - intercept.mean() if len(intercept) > 1 else intercept
        super()._set_weights(coef, centred)


class LinearRegressor(LinearEstimator):
    """Predictions and R^2 of a linear regressor."""

    _estimator_type: ClassVar[str] = "regressor"
    _task: ClassVar[str] = "regression"
    fit_intercept: bool

    def predict(self, X: Any) -> Array:
        """Return X w + b, (n_rows,), of arrays, of frames, or of a Dataset in the order of its rows."""
        return self._decide(X)[:, 0]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2 = 1 - sum s (y - prediction)^2 / sum s (y - mean)^2; a Dataset brings its targets."""
        if is_dataset(X):
            values, target, weight = self._labelled(X)
            return r2(target, values[:, 0], weight)
        from tutti.data.convert import labels, weights

        predicted = self.predict(X)
        target = labels(y, len(predicted)).astype(np.float64)
        return r2(target, predicted, None if sample_weight is None else weights(sample_weight, len(target)))

    def _problem(self, schema: Schema) -> LinearProblem:
        return LinearProblem(loss="squared", C=self._strength(), intercept="free" if self.fit_intercept else "none")

    def _strength(self) -> float:
        return math.inf

    def _set_weights(self, coef: Array, intercept: Array) -> None:
        self.coef_, self.intercept_ = coef[0], float(intercept[0])


class Ridge(LinearRegressor):
    """Least squares with L2 regularisation; the intercept is free:

        P(w, b) = sum_i s_i (y_i - w.x_i - b)^2 + alpha |w|^2,

    s_i the sample weights: the minimum is that of scikit-learn's Ridge with the same alpha.  Up to a few thousand
    features the sums X'X and X'y of one pass give it exactly.  ``objective_`` and ``duality_gap_`` are those of
    P / (2 alpha), the form that all solvers share (alpha = 0: P / 2).

    Parameters
    ----------
    alpha : strength of the regularisation, >= 0.
    fit_intercept : False fixes b = 0.
    tol : relative gap that has to be proved; only iterative solvers stop at it.
    max_iter : most rounds of the solver; None leaves it to the solver.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True starts from the weights of the last fit (iterative solvers).
    solver : "auto", "gram", "lbfgs", "dual" or "sgd".
    strategy : "auto" or an object such as tutti.AllReduce().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job; part of the result, unlike the number of workers.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    coef_ : (n_features,) weights.
    intercept_ : b.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_ : rounds.
    objective_, duality_gap_ : the minimised function at the end, and the proved bound of its distance to the minimum.
    history_ : one dict per round: step, seconds, objective, gap, passes.
    plan_, report_ : what was planned, and what was measured.
    gradients_ : after a `tutti.Replay`, by name what the last update moved along; else empty.

    Example
    -------
    >>> import numpy as np
    >>> model = Ridge(alpha=1.0).fit(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> round(float(model.coef_[0]), 6), round(model.intercept_, 6)
    (1.333333, 1.666667)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-4,
        max_iter: int | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        solver: str = "auto",
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.solver = solver
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def _check_params(self) -> None:
        super()._check_params()
        require_real("alpha", self.alpha, 0.0, inclusive=True, wanted="the strength of the regularisation")

    def _strength(self) -> float:
        return 1.0 / float(self.alpha) if self.alpha > 0 else math.inf


class LinearRegression(LinearRegressor):
    """Least squares; of several minima (dependent columns) the one of least norm:

        P(w, b) = 1/2 sum_i s_i (y_i - w.x_i - b)^2,

    s_i the sample weights: the solution of scikit-learn's LinearRegression.

    Parameters
    ----------
    fit_intercept : False fixes b = 0.
    tol : relative gap that has to be proved; only iterative solvers stop at it.
    max_iter : most rounds of the solver; None leaves it to the solver.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True starts from the weights of the last fit (iterative solvers).
    solver : "auto", "gram", "lbfgs" or "sgd".
    strategy : "auto" or an object such as tutti.AllReduce().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job; part of the result, unlike the number of workers.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    coef_ : (n_features,) weights.
    intercept_ : b.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_ : rounds.
    objective_, duality_gap_ : P at the end, and the proved bound of its distance to the minimum.
    history_ : one dict per round: step, seconds, objective, gap, passes.
    plan_, report_ : what was planned, and what was measured.
    gradients_ : after a `tutti.Replay`, by name what the last update moved along; else empty.

    Example
    -------
    >>> import numpy as np
    >>> model = LinearRegression().fit(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    >>> round(float(model.predict([[3.0]])[0]), 6)
    7.0
    """

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-4,
        max_iter: int | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        solver: str = "auto",
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.solver = solver
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose


def r2(target: Array, predicted: Array, weight: Array | None) -> float:
    """Return R^2; 1 or 0 where the target is constant and is met or missed, as scikit-learn has it."""
    w = np.ones(len(target)) if weight is None else weight
    residual = float(w @ (target - predicted) ** 2)
    total = float(w @ (target - np.average(target, weights=w)) ** 2)
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total
