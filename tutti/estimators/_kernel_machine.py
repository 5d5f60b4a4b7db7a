"""What machines with a kernel share: the flow of a fit as tasks, checks of parameters, values, the model's folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from tutti.data.memory import cores
from tutti.engines._limits import one_thread
from tutti.errors import DataError, ModelError, ParameterError
from tutti.estimators import _approximate
from tutti.estimators._base import ConvergenceWarning, Estimator, warn
from tutti.estimators._decision import check_finite
from tutti.estimators._intake import as_dataset, is_dataset, refuse_infinity
from tutti.estimators._linear import labels_array, require_real, require_whole
from tutti.estimators._progress import TaskProgress
from tutti.learners._kernel_rows import Kernel, Points, dense, points, share
from tutti.learners._pieces import Pieces
from tutti.learners._problem import LinearProblem
from tutti.learners.kernel_svm import KernelMachine, KernelProblem
from tutti.planner import Choice, Explanation, explain
from tutti.planner.choose import engine_of
from tutti.protocols import Strategy
from tutti.runtime.driver import draft_plan, train
from tutti.runtime.report import make_report
from tutti.seeds import run_seed
from tutti.strategies.task_parallel import TaskParallel
from tutti.types import Array, Csr, Result, Schema

_KERNELS = ("linear", "rbf", "poly", "sigmoid")
_SOMETIMES = ("probA_", "probB_", "_linear", "support_", "support_vectors_", "n_support_", "dual_coef_")
_PRECOMPUTED = (
    "a row of a precomputed kernel holds its values with all other rows, so rows cannot be dealt to shards, and no "
    "support vectors could be kept: give the rows themselves and the kernel's name, or use sklearn.svm.SVC"
)


class KernelEstimator(Estimator):
    """Fit, explain, save and values of a machine with a kernel."""

    _task: ClassVar[str]
    C: float
    kernel: str
    degree: int
    gamma: Any
    coef0: float
    tol: float
    cache_size: float
    max_iter: int
    approximate: str | None
    n_components: int
    random_state: Any
    strategy: Any
    engine: Any
    n_shards: int
    verbose: int
    support_vectors_: Array
    dual_coef_: Array
    intercept_: Array
    n_features_in_: int

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model; the same bits for any number of workers, and if some of them are lost.

        Parameters
        ----------
        X : (n_rows, n_features) array, scipy sparse matrix, pandas or polars frame, Arrow table or torch tensor; or a
            tutti Dataset; or the path or URL of a .svm, .csv or .parquet file.
        y : (n_rows,) labels or targets; the name of the label column if X is a file of columns; else None.
        sample_weight : (n_rows,) weights >= 0 of arrays: C of a row is C * class weight * weight.

        Raises
        ------
        InputError : the data, a parameter or their combination is wrong; raised before any worker starts where the
            mistake can be seen there.
        RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.
        """
        self._check_params()
        dataset, label_dtype = self._intake(X, y, sample_weight)
        schema, choice, explanation = self._job(dataset)
        with TaskProgress(type(self).__name__, bool(self.verbose)) as watch:
            result = train(
                choice.learner,
                dataset,
                schema=schema,
                strategy=choice.strategy,
                engine=choice.engine,
                plan=explanation.plan,
                n_shards=int(self.n_shards),
                seed=run_seed(self.random_state),
                watch=watch,
            )
        if schema.classes is not None:
            self.classes_ = labels_array(schema.classes, label_dtype)
        self.plan_ = explanation.plan
        self._adopt(schema, result, choice.learner)
        return self

    def explain(self, X: Any, y: Any = None, sample_weight: Any = None) -> Explanation:
        """Return the plan of ``fit`` with the same arguments; nothing is started.

        The data is scanned for its shape and classes if that is not known yet.
        """
        self._check_params()
        return self._job(self._intake(X, y, sample_weight)[0])[2]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder (model.json and safetensors, no pickle); `tutti.load` reads it.

        A tutti model at ``path`` is replaced as a whole; anything else there is left alone with an InputError.
        """
        from tutti.estimators.store import save

        save(self, path)

    # what the two differ in

    def _problem(self, schema: Schema) -> KernelProblem:
        raise NotImplementedError

    def _linear_problem(self, schema: Schema) -> LinearProblem:
        """Return what an approximate machine minimises over its features."""
        raise NotImplementedError

    def _folds(self) -> int:
        return 0

    def _check_exported(self) -> None:
        self._check_fitted()
        if hasattr(self, "_linear"):
            name = type(self).__name__
            raise ModelError(f"scikit-learn's {name} has no form of an approximate machine: fit with approximate=None")

    # the flow

    def _intake(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Return (dataset, dtype of the labels); what is not finite in arrays is named before anything starts."""
        dataset, dtype = as_dataset(X, y, sample_weight, type(self).__name__)
        return dataset if is_dataset(X) else refuse_infinity(dataset, missing=False), dtype

    def _check_params(self) -> None:
        require_real("C", self.C, 0.0, inclusive=False, wanted="the inverse strength of the regularisation")
        require_real("tol", self.tol, 0.0, inclusive=False, wanted="how far rows may violate the optimality, as 1e-3")
        require_real("coef0", self.coef0, -np.inf, inclusive=False, wanted="what is added to gamma x.z")
        require_real("cache_size", self.cache_size, 0.0, inclusive=False, wanted="megabytes of kernel rows, as 200")
        require_whole("degree", self.degree, 0, "the degree of the polynomial, a whole number >= 0")
        require_whole("max_iter", self.max_iter, -1, "a whole number of steps, or -1 for no limit")
        require_whole("n_shards", self.n_shards, 1, "a whole number of at least 1 (the default is 8)")
        if self.kernel not in _KERNELS:
            near = difflib.get_close_matches(str(self.kernel), _KERNELS, n=1)
            why = _PRECOMPUTED if self.kernel == "precomputed" else f"expected one of {', '.join(map(repr, _KERNELS))}"
            raise ParameterError("kernel", self.kernel, f"{why}; did you mean {near[0]!r}?" if near else why)
        if not isinstance(self.gamma, str):
            require_real("gamma", self.gamma, 0.0, inclusive=True, wanted='"scale", "auto" or a number')
        elif self.gamma not in ("scale", "auto"):
            raise ParameterError("gamma", self.gamma, 'write "scale", "auto" or a number >= 0')
        if self.approximate is not None:
            _approximate.check(self)
        if self.strategy != "auto" and (not isinstance(self.strategy, Strategy) or isinstance(self.strategy, type)):
            raise ParameterError("strategy", self.strategy, 'write "auto" or an object such as tutti.TaskParallel()')

    def _job(self, dataset: Any) -> tuple[Schema, Choice, Explanation]:
        schema = dataset.schema(self._task)
        if self.approximate is not None:
            return schema, *_approximate.job(self, dataset, schema, self._linear_problem(schema))
        learner = KernelMachine(
            problem=self._problem(schema),
            tol=float(self.tol),
            max_iter=int(self.max_iter),
            cache_bytes=int(self.cache_size * 1e6),
            folds=self._folds(),
            n_shards=int(self.n_shards),
        )
        leaves = learner.outline(schema)["leaves"]
        n = len(leaves)
        reason = f"{n} task{'s' * (n != 1)} on pairs of classes" if schema.classes is not None else "one problem"
        strategy = TaskParallel() if self.strategy == "auto" else self.strategy
        choice = Choice(learner, strategy, engine_of(self.engine, schema), f"{self.kernel} kernel: {reason}")
        plan = draft_plan(dataset, schema, learner, strategy, choice.engine, int(self.n_shards))
        width = 4 if schema.dtype == "float32" else 8
        copy = schema.n_rows * schema.n_features * width
        cache = min(learner.cache_bytes, int(4 * max(leaves)))  # kernel rows of a task in float32
        plan = replace(plan, memory_bytes=plan.memory_bytes + copy + plan.size * cache)
        kept = dataset.keeps(schema)
        goal = f"until no two rows violate the optimality by {self.tol:g}"
        return schema, choice, explain(choice, plan, schema, kept=kept, read=kept != "memory", goal=goal)

    def _adopt(self, schema: Schema, result: Result, learner: Any) -> None:
        self._forget()
        self.n_features_in_ = schema.n_features
        self._set_names(schema.feature_names)
        self.shape_fit_ = (schema.n_rows, schema.n_features)
        self.fit_status_ = int(not result.progress.converged)
        self._take(result, learner)
        self.history_ = [
            {"step": r.step, "seconds": r.seconds, "objective": r.objective, **r.metrics} for r in result.history
        ]
        self.report_ = make_report(result, self._model_arrays())
        if self.fit_status_:
            warn(
                f"{type(self).__name__} stopped before tol={self.tol:g} was reached: raise max_iter={self.max_iter}, "
                "loosen tol, or scale the features",
                ConvergenceWarning,
            )

    def _forget(self) -> None:
        """Remove what only some fits leave."""
        for name in _SOMETIMES:
            self.__dict__.pop(name, None)

    def _take(self, result: Result, learner: Any) -> None:
        """Set the fitted attributes."""
        if self.approximate is not None:
            self._linear = _approximate.fitted(learner, result)
            self._gamma, self.intercept_ = learner.features.kernel.gamma, self._linear.intercept
            self.objective_, self.n_iter_ = result.progress.objective, np.array([max(len(result.history), 1)], np.int32)
            return
        found = {name: np.array(array) for name, array in result.arrays.items()}
        self.support_, self.support_vectors_ = found["row"].astype(np.int32), found["vectors"]
        self.dual_coef_, self.intercept_ = found["dual"], found["intercept"]
        self.n_support_ = found["n_support"].astype(np.int32)
        self._gamma = float(found["gamma"][0])
        self.n_iter_ = np.maximum(found["steps"].astype(np.int32), 1)
        self.objective_ = float(found["objective"].sum())
        self._extra(found)

    def _extra(self, found: Mapping[str, Array]) -> None:
        """Take what else the tasks found; nothing by default."""

    def _model_arrays(self) -> dict[str, Array]:
        if hasattr(self, "_linear"):
            return self._linear.arrays()
        return {
            "support": self.support_,
            "support_vectors": self.support_vectors_,
            "n_support": self.n_support_,
            "dual_coef": self.dual_coef_,
            "intercept": self.intercept_,
        }

    # values

    @property
    def coef_(self) -> Array:
        """The weights of the columns with kernel="linear", or of the features of an approximate machine."""
        if hasattr(self, "_linear"):
            return self._linear.coef
        if self.kernel != "linear":
            raise AttributeError("coef_ is only available when using a linear kernel")
        self._check_fitted()
        return self._outputs().T @ self.support_vectors_

    def _outputs(self) -> Array:
        """Return the dual coefficients of each output, (n_support, n_outputs)."""
        return self.dual_coef_.T

    def _values(self, X: Any) -> Array:
        """Return (n_rows, n_outputs) values of arrays or of a Dataset, in the order of its rows."""
        self._check_fitted()
        if is_dataset(X):
            return np.concatenate([self._values_of(b.x) for b in X.predict_blocks(self.n_features_in_)])
        from tutti.data.convert import features

        x, names = features(X)
        self._check_names(names)
        if x.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {x.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input."
            )
        return self._values_of(x)

    def _values_of(self, x: Array | Csr) -> Array:
        if hasattr(self, "_linear"):
            check_finite(x)
            return self._linear.values(x)
        outputs, vectors = self._outputs(), self.support_vectors_
        kernel = Kernel(self.kernel, self._gamma, float(self.coef0), int(self.degree))  # type: ignore[arg-type]
        center = vectors.mean(axis=0) if self.kernel == "rbf" and len(vectors) else np.zeros(1, vectors.dtype)
        right = Points(np.empty_like(vectors), np.empty(len(vectors)))
        found = np.empty((x.shape[0], outputs.shape[1]))

        def centred(lo: int, hi: int) -> None:
            some = points(vectors[lo:hi] - center, vectors.dtype)
            right.x[lo:hi], right.squares[lo:hi] = some.x, some.squares

        def fill(lo: int, hi: int) -> None:
            left = points(dense(x, lo, hi) - center, vectors.dtype)
            if not np.isfinite(left.squares.sum()):  # a bad value makes them bad: the rows themselves are not searched
                check_finite(x)
            found[lo:hi] = kernel.sums(left, right, outputs) + self.intercept_

        with one_thread(), Pieces(cores) as pieces:
            pieces.each(centred, len(vectors))
            pieces.each(fill, len(found), share(len(found), vectors.dtype))
        return found

    # storage

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and the plain facts that make up the fitted model."""
        from tutti.estimators.store import fitted_facts

        facts = fitted_facts(self)
        more = {"gamma": self._gamma, "fit_status": self.fit_status_, "objective": self.objective_}
        shape = list(self.shape_fit_)
        return self._model_arrays(), {**facts, **more, "n_iter": self.n_iter_.tolist(), "shape_fit": shape}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        """Set the fitted attributes from what `_to_store` returned; ModelError if they do not fit together."""
        from tutti.estimators.store import restored_classes, restored_report

        d, classes = int(facts["n_features"]), facts["classes"]
        if (classes is None) != (self._task == "regression"):
            raise ModelError(f"{type(self).__name__} and the classes of the model do not fit together")
        if classes is not None:
            self.classes_ = restored_classes(classes)
        self._gamma, self.objective_ = float(facts["gamma"]), float(facts["objective"])
        self.fit_status_, self.n_iter_ = int(facts["fit_status"]), np.array(facts["n_iter"], np.int32)
        self._restore(arrays, d)
        rows, columns = facts["shape_fit"]
        self.shape_fit_ = int(rows), int(columns)
        self._names_from_store(facts["feature_names"], d)
        self.n_features_in_ = d
        self.report_ = restored_report(facts["report"])

    def _restore(self, arrays: Mapping[str, Array], d: int) -> None:
        if self.approximate is not None:
            self._linear = _approximate.restored(self, arrays, self._gamma, d)
            self.intercept_ = self._linear.intercept
            return
        self._check_arrays(arrays, d)
        self.support_, self.support_vectors_ = arrays["support"], arrays["support_vectors"]
        self.n_support_, self.dual_coef_ = arrays["n_support"], arrays["dual_coef"]
        self.intercept_ = arrays["intercept"]

    def _check_arrays(self, arrays: Mapping[str, Array], d: int) -> None:
        k = len(self.classes_) if self._task == "classification" else 1
        n, n_outputs = len(arrays["support"]), max(k * (k - 1) // 2, 1)
        shapes = {
            "support": (n,),
            "support_vectors": (n, d),
            "n_support": (k,),
            "dual_coef": (max(k - 1, 1), n),
            "intercept": (n_outputs,),
        }
        for name, shape in shapes.items():
            if name not in arrays:
                raise ModelError(f"the array {name!r} is missing")
            if arrays[name].shape != shape:
                raise ModelError(f"the array {name!r} has shape {arrays[name].shape}, expected {shape}")
            if not np.isfinite(arrays[name]).all():
                raise ModelError(f"the array {name!r} holds NaN or infinity")
        if int(arrays["n_support"].sum()) != n:
            raise ModelError(f"the array 'n_support' sums to {arrays['n_support'].sum()}, expected {n}")
