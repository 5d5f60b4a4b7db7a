"""Support vector machines with a kernel: libsvm's problems and attributes, solved as tasks on any number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tutti.errors import ModelError, ParameterError
from tutti.estimators._base import NotFittedError, known_to_sklearn
from tutti.estimators._classifier import accuracy, check_classes, class_factors
from tutti.estimators._intake import is_dataset
from tutti.estimators._kernel_machine import KernelEstimator
from tutti.estimators._linear import require_real
from tutti.estimators._probability import expit, fit_sigmoid
from tutti.estimators.svm import OnlyWithProbability
from tutti.learners._problem import LinearProblem
from tutti.learners.kernel_svm import KernelProblem, pairs
from tutti.types import Array, Result, Schema

_FOLDS = 5
_LEAST = 1e-7  # of a probability between two classes, as in libsvm


class SVC(KernelEstimator):
    """C-support vector classification with a kernel, one against one; for each pair of classes

        max  sum_i a_i - 1/2 sum_ij a_i a_j y_i y_j K(x_i, x_j),    0 <= a_i <= C_i,    sum_i a_i y_i = 0,

    C_i = C * class weight * sample weight.  The minimum is that of scikit-learn's SVC with the same parameters, and the
    attributes are laid out as there.  A pair is solved on working sets, whose kernel rows come out of large matrix
    products; pairs are tasks, and so are the leaves of the cascade into which a pair of more than 32,768 rows is cut.
    Sparse rows are made dense in a copy of their own.

    Parameters
    ----------
    C : inverse strength of the regularisation, > 0.
    kernel : "linear" x.z, "poly" (gamma x.z + coef0)^degree, "rbf" exp(-gamma |x - z|^2), "sigmoid" tanh(gamma x.z +
        coef0).
    degree, coef0 : of these.   gamma : a number, "scale" (1 / (n_features * variance of X)) or "auto" (1 / n_features).
    probability : True also fits Platt's sigmoid for each pair, to decision values of rows that five folds hold out in
        turn, for `predict_proba`.
    tol : how far two rows of a pair may violate the optimality at the end.
    cache_size : megabytes of kernel rows that a task keeps at most; of an approximate machine: of features that all
        shards together keep between passes.
    class_weight : None, {class: weight}, or "balanced": n / (K * n_k), counted in rows whatever they weigh.
    max_iter : most steps for each pair; -1: no limit.
    decision_function_shape : "ovr": a column for each class, "ovo": for each pair.
    break_ties : True: of classes with equal votes the one with the highest decision value is predicted ("ovr" only).
    approximate : None: exact.  "fourier" (rbf only) or "nystroem": a linear machine with the same C on features that
        stand for the kernel, one class against the rest, for many rows: its cost grows with n_rows * n_components.
        Features are made block by block, and anew in every pass where they do not fit in ``cache_size``; ``tol`` is
        then the certified relative gap, and the attributes are those of a linear machine, ``coef_``
        (n_outputs, n_components) and ``intercept_``.
    n_components : features of an approximate machine.
    random_state : None or int; nothing here is random.
    strategy : "auto" or tutti.TaskParallel(...).
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job, part of the result, unlike the number of workers.
    verbose : 1 shows how many tasks are done, once a fit takes longer than a second.

    Attributes
    ----------
    support_ : (n_support,) numbers of the support vectors among the rows; of files, in their file.
    support_vectors_ : (n_support, n_features).   n_support_ : (n_classes,).
    dual_coef_ : (n_classes - 1, n_support).   intercept_ : (n_classes * (n_classes - 1) / 2,).
    coef_ : with kernel="linear".
    classes_, class_weight_ : (n_classes,).
    probA_, probB_ : (n_pairs,) with probability=True: P = 1 / (1 + exp(A f + B)).
    fit_status_ : 0, or 1 if max_iter came before tol.   n_iter_ : (n_pairs,) steps.
    objective_ : the dual objective, summed over pairs.
    n_features_in_, feature_names_in_, shape_fit_ : of the data.
    plan_, history_, report_ : what was planned, the stages, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 1, 0])
    >>> SVC(C=10.0).fit(X, y).predict([[0.2], [1.4]]).tolist()
    [0, 1]
    """

    _estimator_type: ClassVar[str] = "classifier"
    _task: ClassVar[str] = "classification"
    classes_: Array
    probA_: Array
    probB_: Array

    def __init__(
        self,
        *,
        C: float = 1.0,
        kernel: str = "rbf",
        degree: int = 3,
        gamma: Any = "scale",
        coef0: float = 0.0,
        probability: bool = False,
        tol: float = 1e-3,
        cache_size: float = 200.0,
        class_weight: Any = None,
        max_iter: int = -1,
        decision_function_shape: str = "ovr",
        break_ties: bool = False,
        approximate: str | None = None,
        n_components: int = 500,
        random_state: Any = None,
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.probability = probability
        self.tol = tol
        self.cache_size = cache_size
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.decision_function_shape = decision_function_shape
        self.break_ties = break_ties
        self.approximate = approximate
        self.n_components = n_components
        self.random_state = random_state
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def decision_function(self, X: Any) -> Array:
        """Return (n_rows,) for two classes (positive: the second), else a column for each class, or pair ("ovo")."""
        values = self._values(X)
        if len(self.classes_) == 2:
            return values[:, 0]
        return (
            values
            if self.decision_function_shape == "ovo" or hasattr(self, "_linear")
            else _one_against_rest(values, len(self.classes_))
        )

    def predict(self, X: Any) -> Array:
        """Return the class of each row of arrays, of frames, or of a Dataset in the order of its rows."""
        index = self._index(self._values(X))
        found: Array = self.classes_[index]
        return found

    @OnlyWithProbability
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_rows, n_classes); only with probability=True.

        Those of all pairs together (Wu, Lin, Weng 2004); next to a boundary `predict` may say another class.
        """
        self._check_fitted()
        if not hasattr(self, "probA_"):
            raise known_to_sklearn(NotFittedError)(
                "this SVC was fitted with probability=False: call fit again with probability=True"
            )
        values = self._values(X)
        sign = -1.0 if len(self.classes_) == 2 else 1.0  # libsvm's values are positive for the first of two classes
        return coupled(expit(-(self.probA_ * sign * values + self.probB_)), len(self.classes_))

    @OnlyWithProbability
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`."""
        logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy: the (weighted) share of rows whose class is predicted; a Dataset brings its labels."""
        if is_dataset(X):
            self._check_fitted()
            blocks = list(X.predict_blocks(self.n_features_in_, tuple(self.classes_.tolist())))
            hit = np.concatenate([self._index(self._values_of(b.x)) == b.y for b in blocks])
            weight = [np.ones(len(b.y)) if b.weight is None else b.weight for b in blocks]
            return float(np.average(hit, weights=np.concatenate(weight)))
        return accuracy(self.predict(X), y, sample_weight)

    def to_sklearn(self) -> Any:
        """Return scikit-learn's SVC with this model in it."""
        from tutti.estimators._kernel_export import classifier

        self._check_exported()
        return classifier(self)

    def _index(self, values: Array) -> Array:
        k = len(self.classes_)
        if k == 2:
            return (values[:, 0] > 0).astype(np.intp)
        if not hasattr(self, "_linear"):
            values = (_one_against_rest if self.break_ties else _votes)(values, k)
        best: Array = values.argmax(axis=1)
        return best

    def _outputs(self) -> Array:
        k = len(self.classes_)
        if k == 2:
            return self.dual_coef_.T
        ends = np.cumsum(self.n_support_)
        found = np.zeros((len(self.support_), k * (k - 1) // 2))
        for p, (a, b) in enumerate(pairs(k)):
            for own, row in ((a, b - 1), (b, a)):
                mine = slice(ends[own] - self.n_support_[own], ends[own])
                found[mine, p] = self.dual_coef_[row, mine]
        return found

    def _check_params(self) -> None:
        super()._check_params()
        shape = self.decision_function_shape
        if shape not in ("ovr", "ovo"):
            raise ParameterError("decision_function_shape", shape, "write 'ovr' or 'ovo'")
        for name in ("probability", "break_ties"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ParameterError(name, getattr(self, name), "write True or False")
        if self.approximate is not None:
            self._check_linear()
        if self.break_ties and shape == "ovo":
            raise ParameterError("break_ties", True, "ties are broken by the values of decision_function_shape='ovr'")

    def _check_linear(self) -> None:
        """Refuse what an approximate machine cannot give."""
        if self.probability:
            raise ParameterError(
                "probability",
                True,
                "an approximate machine has none; calibrate it with sklearn's CalibratedClassifierCV",
            )
        if self.decision_function_shape != "ovr":
            raise ParameterError(
                "decision_function_shape", "ovo", 'approximate sets one class against the rest: write "ovr"'
            )

    def _problem(self, schema: Schema) -> KernelProblem:
        check_classes(schema, type(self).__name__)
        return KernelProblem(
            kernel=self.kernel,  # type: ignore[arg-type]
            gamma=self.gamma if isinstance(self.gamma, str) else float(self.gamma),  # type: ignore[arg-type]
            coef0=float(self.coef0),
            degree=int(self.degree),
            C=float(self.C),
            class_weight=class_factors(self.class_weight, schema, by_rows=True),
        )

    def _folds(self) -> int:
        return _FOLDS if self.probability else 0

    def _linear_problem(self, schema: Schema) -> LinearProblem:
        check_classes(schema, type(self).__name__)
        return LinearProblem(
            "hinge", float(self.C), class_weight=class_factors(self.class_weight, schema, by_rows=True)
        )

    def _take(self, result: Result, learner: Any) -> None:
        super()._take(result, learner)
        if self.approximate is not None:
            self.class_weight_ = np.array(learner.problem.class_weight or [1.0] * len(self.classes_))

    def _extra(self, found: Mapping[str, Array]) -> None:
        k = len(self.classes_)
        if k == 2:
            self.dual_coef_, self.intercept_ = -self.dual_coef_, -self.intercept_
        self.class_weight_ = found["class_weight"]
        if self.probability:
            sizes = np.diff(found["starts"])
            fitted = []
            for p, (a, b) in enumerate(pairs(k)):
                first = np.repeat([True, False], [sizes[a], sizes[b]])
                fitted.append(fit_sigmoid(found[f"held_{p}"], first))
            self.probA_, self.probB_ = np.array(fitted).T.copy()

    def _model_arrays(self) -> dict[str, Array]:
        found = {**super()._model_arrays(), "class_weight": self.class_weight_}
        return found if not hasattr(self, "probA_") else {**found, "probA": self.probA_, "probB": self.probB_}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        super()._from_store(arrays, facts)
        k = len(self.classes_)
        if arrays.get("class_weight", np.empty(0)).shape != (k,):
            raise ModelError(f"the array 'class_weight' is missing, or not of shape {(k,)}")
        self.class_weight_ = arrays["class_weight"]
        if "probA" in arrays:
            if arrays["probA"].shape != self.intercept_.shape or arrays["probB"].shape != self.intercept_.shape:
                raise ModelError(f"the arrays 'probA' and 'probB' must have shape {self.intercept_.shape}")
            self.probA_, self.probB_ = arrays["probA"], arrays["probB"]


class SVR(KernelEstimator):
    """Epsilon-support vector regression with a kernel,

        min  1/2 |w|^2 + sum_i C_i max(0, |y_i - f(x_i)| - epsilon),    f(x) = sum_i b_i K(x_i, x) + intercept,

    C_i = C * sample weight.  The minimum is that of scikit-learn's SVR; it is solved as `SVC` solves a pair.

    Parameters
    ----------
    C : inverse strength of the regularisation, > 0.
    epsilon : half the width of the tube in which errors count nothing, >= 0.
    kernel, degree, gamma, coef0, tol, cache_size, max_iter, approximate, n_components : as in `SVC`.
    random_state, strategy, engine, n_shards, verbose : as in `SVC`.

    Attributes
    ----------
    support_, support_vectors_, n_support_ : as in `SVC`.
    dual_coef_ : (1, n_support).   intercept_ : (1,).   coef_ : with kernel="linear".
    fit_status_, n_iter_, objective_, n_features_in_, feature_names_in_, shape_fit_ : as in `SVC`.
    plan_, history_, report_ : what was planned, the stages, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> np.round(SVR(kernel="linear", C=10.0, epsilon=0.0).fit(X, 2 * X[:, 0]).predict([[1.5]]), 2).tolist()
    [3.0]
    """

    _estimator_type: ClassVar[str] = "regressor"
    _task: ClassVar[str] = "regression"

    def __init__(
        self,
        *,
        C: float = 1.0,
        epsilon: float = 0.1,
        kernel: str = "rbf",
        degree: int = 3,
        gamma: Any = "scale",
        coef0: float = 0.0,
        tol: float = 1e-3,
        cache_size: float = 200.0,
        max_iter: int = -1,
        approximate: str | None = None,
        n_components: int = 500,
        random_state: Any = None,
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.kernel = kernel
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.tol = tol
        self.cache_size = cache_size
        self.max_iter = max_iter
        self.approximate = approximate
        self.n_components = n_components
        self.random_state = random_state
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.verbose = verbose

    def predict(self, X: Any) -> Array:
        """Return the value of each row of arrays, of frames, or of a Dataset in the order of its rows."""
        return self._values(X)[:, 0]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2, 1 - (sum of squared errors) / (that of the mean), weighted; a Dataset brings its targets."""
        from tutti.data.convert import labels, weights

        if is_dataset(X):
            self._check_fitted()
            blocks = list(X.predict_blocks(self.n_features_in_))
            found = np.concatenate([self._values_of(b.x)[:, 0] for b in blocks])
            target = np.concatenate([b.y for b in blocks])
            weight = np.concatenate([np.ones(len(b.y)) if b.weight is None else b.weight for b in blocks])
        else:
            found = self.predict(X)
            target = labels(y, len(found)).astype(np.float64)
            weight = np.ones(len(found)) if sample_weight is None else weights(sample_weight, len(found))
        spread = float(weight @ (target - np.average(target, weights=weight)) ** 2)
        error = float(weight @ (target - found) ** 2)
        return 1.0 - error / spread if spread > 0 else float(error == 0)

    def to_sklearn(self) -> Any:
        """Return scikit-learn's SVR with this model in it."""
        from tutti.estimators._kernel_export import regressor

        self._check_exported()
        return regressor(self)

    def _check_params(self) -> None:
        super()._check_params()
        require_real("epsilon", self.epsilon, 0.0, inclusive=True, wanted="half the width of the tube")

    def _problem(self, schema: Schema) -> KernelProblem:
        return KernelProblem(
            kernel=self.kernel,  # type: ignore[arg-type]
            gamma=self.gamma if isinstance(self.gamma, str) else float(self.gamma),  # type: ignore[arg-type]
            coef0=float(self.coef0),
            degree=int(self.degree),
            C=float(self.C),
            epsilon=float(self.epsilon),
        )

    def _linear_problem(self, schema: Schema) -> LinearProblem:
        return LinearProblem("epsilon_insensitive", float(self.C), epsilon=float(self.epsilon))


def _votes(values: Array, k: int) -> Array:
    votes = np.zeros((len(values), k))
    for p, (a, b) in enumerate(pairs(k)):
        first = values[:, p] > 0
        votes[:, a] += first
        votes[:, b] += ~first
    return votes


def _one_against_rest(values: Array, k: int) -> Array:
    """Return votes, and of classes with equal votes the one with larger values before the others, as scikit-learn."""
    sums, votes = np.zeros((len(values), k)), np.zeros((len(values), k))
    for p, (a, b) in enumerate(pairs(k)):
        sums[:, a] += values[:, p]
        sums[:, b] -= values[:, p]
        second = values[:, p] < 0
        votes[:, a] += ~second
        votes[:, b] += second
    found: Array = votes + sums / (3 * (np.abs(sums) + 1))
    return found


def coupled(between: Array, k: int) -> Array:
    """Return (n, k) probabilities of classes from those of pairs: min sum_(a<b) (r_ba p_a - r_ab p_b)^2, sum p = 1.

    Parameters
    ----------
    between : (n, n_pairs) r_ab, the probability of the first class of a pair, if it is one of the two.

    Source: Wu, Lin, Weng (2004), "Probability estimates for multi-class classification by pairwise coupling".
    """
    r = np.clip(between, _LEAST, 1 - _LEAST)
    if k == 2:
        return np.column_stack([r[:, 0], 1 - r[:, 0]])
    system = np.zeros((len(r), k + 1, k + 1))
    for p, (a, b) in enumerate(pairs(k)):
        ab, ba = r[:, p], 1 - r[:, p]
        system[:, a, a] += ba * ba
        system[:, b, b] += ab * ab
        system[:, a, b] = system[:, b, a] = -ab * ba
    system[:, k, :k] = system[:, :k, k] = 1.0
    right = np.zeros((len(r), k + 1, 1))
    right[:, k] = 1.0
    found = np.clip(np.linalg.solve(system, right)[:, :k, 0], 0.0, None)
    proba: Array = found / found.sum(axis=1, keepdims=True)
    return proba
