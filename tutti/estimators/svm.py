"""Linear support vector machines: liblinear's minima, certified, on any number of workers; probabilities by Platt."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tutti.errors import ModelError, ParameterError
from tutti.estimators._base import NotFittedError, known_to_sklearn
from tutti.estimators._calibration import folds, held_out
from tutti.estimators._classifier import LinearClassifier, check_classes
from tutti.estimators._linear import Job, require_real, weights_of
from tutti.estimators._probability import fit_sigmoid, sigmoid_proba
from tutti.estimators._recorded import one_fit
from tutti.learners._problem import LinearProblem
from tutti.types import Array, Schema

_LOSSES = ("squared_hinge", "hinge")


class OnlyWithProbability:
    """A method that exists, as far as ``hasattr`` can tell, only on an estimator with probability=True."""

    def __init__(self, function: Callable[[Any, Any], Array]) -> None:
        self._function = function

    def __get__(self, owner: Any, kind: type | None = None) -> Callable[..., Array]:
        if owner is None:
            return self._function
        if not owner.probability:
            raise AttributeError(f"{self._function.__name__} needs probability=True, set before the fit")
        return types.MethodType(self._function, owner)


class LinearSVC(LinearClassifier):
    """Linear support vector classification, L2-regularised, each class against the rest; per output

        P(w, b) = 1/2 |w|^2 + 1/2 (b / s)^2 + C sum_i c_i s_i l(y_i (w.x_i + b)),    y_i = -1 or +1,

    l(m) = max(0, 1 - m)^2 (squared_hinge) or max(0, 1 - m) (hinge), c_i the class weight, s_i the sample weight of row
    i.  The intercept is liblinear's: the weight of a constant column of value s = intercept_scaling, regularised like
    the others.  The minimum is that of scikit-learn's LinearSVC with the same parameters (but see class_weight).  All
    outputs share one pass over the data.  The fit stops when it has proved that P, summed over outputs, is at most
    tol * P above the minimum.

    Parameters
    ----------
    C : inverse strength of the regularisation, > 0.
    loss : "squared_hinge" or "hinge".
    fit_intercept : False fixes b = 0.
    intercept_scaling : s > 0; the larger, the less the intercept is regularised.
    class_weight : None, {class: weight}, or "balanced": n / (K * n_k), counted in sample weights.  It multiplies the
        row in every output; liblinear, and so scikit-learn, weights the rows of a class in the output of that class
        alone if there are three classes or more (there, fit with sample_weight = c_i s_i to get this minimum).
    probability : True also fits Platt's sigmoid per output, for `predict_proba`.  In turn, one in five groups of
        shards is held out, the model fitted on the others, and its decision values on the held-out shards collected;
        the sigmoid is fitted to all of them, the model itself to all rows.  Costs about five more fits.  Arrays are
        dealt to these shards by class; a Dataset keeps its own partition.
    tol : relative gap (P - minimum) / P that has to be proved.
    max_iter : most rounds of the solver; None leaves it to the solver.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    warm_start : True starts from the weights of the last fit.
    solver : "auto", "newton", "dual", "sgd", or with the squared hinge also "lbfgs".
    strategy : "auto" or an object such as tutti.CoCoA().
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job; part of the result, unlike the number of workers.
    verbose : 1 shows the rounds of a fit that takes longer than a second.

    Attributes
    ----------
    coef_ : (1, n_features) for two classes, else (n_classes, n_features).
    intercept_ : (1,) or (n_classes,).
    classes_ : (n_classes,) sorted labels.
    sigmoid_ : (1, 2) or (n_classes, 2) with probability=True: P = 1 / (1 + exp(a f + b)) of a decision value f.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    n_iter_ : rounds.
    objective_, duality_gap_ : P at the end, and the proved bound of P - minimum.
    history_ : one dict per round: step, seconds, objective, gap, passes.
    plan_, report_ : what was planned, and what was measured.
    gradients_ : after a `tutti.Replay`, by name what the last update moved along; else empty.

    Example
    -------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> LinearSVC().fit(X, y).predict([[0.2], [2.8]]).tolist()
    [0, 1]
    """

    sigmoid_: Array

    def __init__(
        self,
        *,
        C: float = 1.0,
        loss: str = "squared_hinge",
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: Any = None,
        probability: bool = False,
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
        self.loss = loss
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.probability = probability
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.solver = solver
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    @OnlyWithProbability
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_rows, n_classes); only with probability=True.

        `predict` follows the decision values: next to the boundary, the more probable class may be another one.
        """
        self._check_fitted()
        if not hasattr(self, "sigmoid_"):
            raise known_to_sklearn(NotFittedError)(
                "this LinearSVC was fitted with probability=False: call fit again with probability=True"
            )
        return sigmoid_proba(self.decision_function(X), self.sigmoid_)

    @OnlyWithProbability
    def predict_log_proba(self, X: Any) -> Array:
        """Return the natural logarithm of `predict_proba`; only with probability=True."""
        return np.log(self.predict_proba(X))

    def _check_params(self) -> None:
        super()._check_params()
        if self.loss not in _LOSSES:
            near = difflib.get_close_matches(str(self.loss), _LOSSES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError("loss", self.loss, f"expected 'squared_hinge' or 'hinge'{hint}")
        require_real("intercept_scaling", self.intercept_scaling, 0.0, inclusive=False, wanted="the constant column")
        if not isinstance(self.probability, bool | np.bool_):
            raise ParameterError("probability", self.probability, "write True or False")
        if self.probability and self.n_shards < 2:
            raise ParameterError("n_shards", self.n_shards, "probability=True holds out shards: write at least 2")
        if self.probability and one_fit(self.strategy):
            raise ParameterError(
                "probability", True, "it takes several fits, and a record is of one: write probability=False"
            )

    def _problem(self, schema: Schema) -> LinearProblem:
        check_classes(schema, type(self).__name__)
        return LinearProblem(
            loss="hinge" if self.loss == "hinge" else "squared_hinge",
            C=float(self.C),
            intercept="regularised" if self.fit_intercept else "none",
            intercept_scaling=float(self.intercept_scaling),
            class_weight=self._class_weight(schema),
        )

    def _after(self, job: Job, from_arrays: bool) -> None:
        if hasattr(self, "sigmoid_"):
            del self.sigmoid_
        if not self.probability:
            return
        dataset = job.dataset.partition("stratified") if from_arrays else job.dataset
        n_shards, schema = int(self.n_shards), job.schema
        parts = []
        for fold in folds(dataset, n_shards, schema):
            result = self._run(self._job(fold.train, schema=fold.schema))
            parts.append(held_out(dataset, fold, n_shards, schema, *weights_of(result)))
        values, codes, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        rows = values.shape[1]
        positive = [codes == 1] if rows == 1 else [codes == k for k in range(rows)]
        self.sigmoid_ = np.array([fit_sigmoid(values[:, k], positive[k], weights) for k in range(rows)])

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays, facts = super()._to_store()
        return ({**arrays, "sigmoid": self.sigmoid_} if hasattr(self, "sigmoid_") else arrays), facts

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        super()._from_store(arrays, facts)
        if "sigmoid" in arrays:
            if arrays["sigmoid"].shape != (len(self.coef_), 2):
                raise ModelError(
                    f"the array 'sigmoid' has shape {arrays['sigmoid'].shape}, expected {(len(self.coef_), 2)}"
                )
            self.sigmoid_ = arrays["sigmoid"]
