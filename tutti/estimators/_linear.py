"""The one flow of every linear estimator: data, schema, problem, choice, plan, run, attributes."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tutti.errors import DataError, InputError, ModelError, ParameterError
from tutti.estimators._base import ConvergenceWarning, Estimator, warn
from tutti.estimators._decision import decision
from tutti.estimators._intake import as_dataset, is_dataset
from tutti.estimators._progress import RoundProgress
from tutti.estimators._recorded import parted, seal
from tutti.learners._problem import LinearProblem
from tutti.learners.gram import MOMENTS, Gram
from tutti.planner import Choice, Explanation, choose, explain
from tutti.runtime.driver import draft_plan, train
from tutti.runtime.report import make_report
from tutti.seeds import run_seed
from tutti.types import Array, Result, Schema


@dataclass(frozen=True)
class Job:
    """A fit that is decided in full and has not begun."""

    dataset: Any
    schema: Schema
    choice: Choice
    explanation: Explanation


class LinearEstimator(Estimator):
    """Fit, explain, predict and save for models that are a matrix and an intercept."""

    _task: ClassVar[str]
    tol: float
    max_iter: int | None
    random_state: Any
    warm_start: bool
    solver: str
    strategy: Any
    engine: Any
    n_shards: int
    verbose: int
    coef_: Array
    intercept_: Any
    n_features_in_: int
    _held: tuple[Any, Array] | None = None

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model; the same bits for any number of workers.

        Parameters
        ----------
        X : (n_rows, n_features) array, scipy sparse matrix, pandas or polars frame, Arrow table or torch tensor; or a
            tutti Dataset; or the path or URL of a .svm, .csv or .parquet file.
        y : (n_rows,) labels or targets; the name of the label column if X is a file of columns; else None.
        sample_weight : (n_rows,) weights >= 0 of arrays; a weight of k counts like k equal rows.

        Raises
        ------
        InputError : the data, a parameter or their combination is wrong; raised before any worker starts where the
            mistake can be seen there.
        RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.
        """
        self._check_params()
        dataset, label_dtype = as_dataset(X, y, sample_weight, type(self).__name__)
        self._fit_on(dataset, label_dtype, from_arrays=not (is_dataset(X) or isinstance(X, str | os.PathLike)))
        return self

    def _fit_on(
        self,
        dataset: Any,
        label_dtype: Any,
        *,
        from_arrays: bool,
        near: Mapping[str, Array] | None = None,
        keep: bool = False,
    ) -> dict[str, Array]:
        """Fit the rows of a Dataset and return what a fit of the same rows with another regularisation may start from.

        Parameters
        ----------
        near : what another fit of these rows has returned.
        keep : True if others will start from here; least squares then keep the sums that do not depend on alpha.
        """
        self._check_params()
        job = self._job(dataset)
        if keep and isinstance(job.choice.learner, Gram):
            learner = dataclasses.replace(job.choice.learner, keep=True)
            job = dataclasses.replace(job, choice=dataclasses.replace(job.choice, learner=learner))
        result = self._run(job, self._start(job.schema) if near is None else near)
        self._adopt(job, result, label_dtype)
        self._after(job, from_arrays=from_arrays)
        if not result.progress.converged:
            self._warn_unconverged(result)
        return {name: result.arrays[name] for name in ("coef", "intercept", *MOMENTS) if name in result.arrays}

    def explain(self, X: Any, y: Any = None, sample_weight: Any = None) -> Explanation:
        """Return the plan of ``fit`` with the same arguments; nothing is started.

        The data is scanned for its shape and classes if that is not known yet.
        """
        self._check_params()
        dataset, _ = as_dataset(X, y, sample_weight, type(self).__name__)
        return self._job(dataset).explanation

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder (model.json and safetensors, no pickle); `tutti.load` reads it.

        A tutti model at ``path`` is replaced as a whole; anything else there is left alone with an InputError.
        """
        from tutti.estimators.store import save

        save(self, path)

    # what the estimators differ in

    def _problem(self, schema: Schema) -> LinearProblem:
        raise NotImplementedError

    def _after(self, job: Job, from_arrays: bool) -> None:
        """Fit what builds on the weights; nothing by default."""

    def _check_params(self) -> None:
        """Raise ParameterError for the first parameter that is out of its range."""
        require_real("tol", self.tol, 0.0, inclusive=False, wanted="a relative gap such as 1e-4")
        if self.max_iter is not None:
            require_whole("max_iter", self.max_iter, 1, "None (the solver's default) or a whole number of at least 1")
        require_whole("n_shards", self.n_shards, 1, "a whole number of at least 1 (the default is 8)")
        for name in ("fit_intercept", "warm_start"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise ParameterError(name, value, "write True or False")

    # the flow

    def _job(self, dataset: Any, problem: LinearProblem | None = None, schema: Schema | None = None) -> Job:
        schema = schema or dataset.schema(self._task)
        choice = choose(
            problem or self._problem(schema),
            schema,
            solver=self.solver,
            strategy=self.strategy,
            engine=self.engine,
            n_shards=self.n_shards,
            tol=float(self.tol),
            max_iter=self.max_iter,
        )
        plan = draft_plan(dataset, schema, choice.learner, choice.strategy, choice.engine, int(self.n_shards))
        kept = dataset.keeps(schema)
        # what is kept in memory was decoded by the scan already
        explanation = explain(choice, plan, schema, kept=kept, read=kept != "memory")
        return Job(dataset, schema, choice, explanation)

    def _run(self, job: Job, start: Mapping[str, Array] | None = None) -> Result:
        with RoundProgress(type(self).__name__, bool(self.verbose)) as watch:
            return train(
                job.choice.learner,
                job.dataset,
                schema=job.schema,
                strategy=job.choice.strategy,
                engine=job.choice.engine,
                plan=job.explanation.plan,
                n_shards=int(self.n_shards),
                seed=run_seed(self.random_state),
                start=start,
                watch=watch,
            )

    def _start(self, schema: Schema) -> dict[str, Array] | None:
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return None
        coef = np.atleast_2d(self.coef_)
        if coef.shape[1] != schema.n_features or self._output_names(schema) != self._fitted_outputs():
            raise InputError(
                f"warm_start=True continues from a model of {coef.shape[1]} features and {len(coef)} outputs, which "
                "does not fit this data (features or classes differ); set warm_start=False"
            )
        return {"coef": np.ascontiguousarray(coef.T), "intercept": np.atleast_1d(self.intercept_).astype(np.float64)}

    def _output_names(self, schema: Schema) -> list[Any]:
        return list(schema.classes or ())

    def _fitted_outputs(self) -> list[Any]:
        classes = getattr(self, "classes_", None)
        return [] if classes is None else list(classes.tolist())

    def _adopt(self, job: Job, result: Result, label_dtype: Any) -> None:
        schema = job.schema
        coef, intercept = weights_of(result)
        self._set_weights(coef, intercept)
        _, gradients = parted(result.arrays)
        shapes = {"coef": np.shape(self.coef_), "intercept": np.shape(self.intercept_)}
        self.gradients_ = {name: np.ascontiguousarray(g.T).reshape(shapes[name]) for name, g in gradients.items()}
        self.n_features_in_ = schema.n_features
        self._set_names(schema.feature_names)
        if schema.classes is not None:
            self.classes_ = labels_array(schema.classes, label_dtype)
        self.n_iter_ = max((r.step for r in result.history), default=1)
        self.history_ = [
            {"step": r.step, "seconds": r.seconds, "objective": r.objective, "gap": r.gap, "passes": r.passes}
            for r in result.history
        ]
        self.plan_ = job.explanation.plan
        self.objective_, self.duality_gap_ = result.progress.objective, result.progress.gap
        self.report_ = make_report(result, self._model_arrays())
        seal(job.choice.strategy, self.n_iter_, self.report_.sha256)

    def _set_weights(self, coef: Array, intercept: Array) -> None:
        """Set coef_ and intercept_ in the shapes of the estimator from (K, d) and (K,)."""
        self.coef_, self.intercept_ = coef, intercept

    def _model_arrays(self) -> dict[str, Array]:
        return {"coef": np.asarray(self.coef_), "intercept": np.asarray(self.intercept_)}

    def _warn_unconverged(self, result: Result) -> None:
        p = result.progress
        gap = p.gap / max(abs(p.objective), 1e-300)
        known = (
            f"certified within {gap:.1e} of the optimum (relative)" if math.isfinite(gap) else "without a certificate"
        )
        more = "raise max_iter" if self.max_iter is None else f"raise max_iter={self.max_iter}"
        warn(
            f"{type(self).__name__} stopped after {self.n_iter_} rounds at objective {p.objective:.8g}, {known}, where "
            f"tol={self.tol:g} was asked for: {more}, loosen tol, scale the features or choose another solver",
            ConvergenceWarning,
        )

    # prediction

    def _decide(self, X: Any) -> Array:
        """Return (n_rows, K) decision values of arrays or of a Dataset, in the order of its rows."""
        self._check_fitted()
        if self._held is not None and X is self._held[0]:
            return self._held[1]
        coef, intercept = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        if is_dataset(X):
            return np.concatenate([decision(b.x, coef, intercept) for b in X.predict_blocks(self.n_features_in_)])
        from tutti.data.convert import features

        x, names = features(X)
        self._check_names(names)
        self._check_width(x.shape[1])
        return decision(x, coef, intercept)

    @contextmanager
    def _holding(self, rows: Any, values: Array | None) -> Iterator[None]:
        """Context in which the decision values of ``rows`` are known: a search takes those of many models at once."""
        if values is not None:
            self._held = rows, values
        try:
            yield
        finally:
            self.__dict__.pop("_held", None)

    def _labelled(self, dataset: Any) -> tuple[Array, Array, Array | None]:
        """Return (decision values, class codes or targets, weights) of all rows of a Dataset."""
        self._check_fitted()
        coef, intercept = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        classes = None if self._task == "regression" else tuple(self._fitted_outputs())
        values, targets, weights = [], [], []
        for block in dataset.predict_blocks(self.n_features_in_, classes):
            if not len(block.y):
                raise DataError("the Dataset has no labels to compare with: name the label column when reading it")
            values.append(decision(block.x, coef, intercept))
            targets.append(block.y)
            if block.weight is not None:
                weights.append(block.weight)
        return np.concatenate(values), np.concatenate(targets), np.concatenate(weights) if weights else None

    def _check_width(self, n_features: int) -> None:
        if n_features != self.n_features_in_:
            raise DataError(
                f"X has {n_features} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input."
            )

    # storage

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and the plain facts that make up the fitted model."""
        from tutti.estimators.store import fitted_facts

        certificate = {"objective": self.objective_, "duality_gap": self.duality_gap_}
        return self._model_arrays(), {**fitted_facts(self), "certificate": certificate}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        """Set the fitted attributes from what `_to_store` returned; ModelError if they do not fit together."""
        from tutti.estimators.store import restored_classes, restored_report

        for name, array in arrays.items():
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ModelError(f"the array {name!r} must be finite float64, came {array.dtype}")
        d = int(facts["n_features"])
        classes = facts["classes"]
        if (classes is None) != (self._task == "regression"):
            raise ModelError(f"{type(self).__name__} and the classes of the model do not fit together")
        if classes is not None:
            self.classes_ = restored_classes(classes)
        self._check_shapes(arrays, d)
        self._set_weights(np.atleast_2d(arrays["coef"]), np.atleast_1d(arrays["intercept"]))
        self._names_from_store(facts["feature_names"], d)
        self.n_features_in_, self.n_iter_ = d, int(facts["n_iter"])
        certificate = facts["certificate"]
        self.objective_, self.duality_gap_ = float(certificate["objective"]), float(certificate["duality_gap"])
        self.report_ = restored_report(facts["report"])

    def _check_shapes(self, arrays: Mapping[str, Array], d: int) -> None:
        k = len(self._fitted_outputs())
        rows = k if k > 2 else 1
        expected = {"coef": (rows, d), "intercept": (rows,)} if k else {"coef": (d,), "intercept": ()}
        for name, shape in expected.items():
            if name not in arrays:
                raise ModelError(f"the array {name!r} is missing")
            if arrays[name].shape != shape:
                raise ModelError(f"the array {name!r} has shape {arrays[name].shape}, expected {shape}")


def weights_of(result: Result) -> tuple[Array, Array]:
    """Return (K, d) weights and (K,) intercepts, float64, of a run."""
    coef = np.ascontiguousarray(np.asarray(result.arrays["coef"], dtype=np.float64).T)
    return coef, np.array(result.arrays["intercept"], dtype=np.float64)


def labels_array(classes: tuple[Any, ...], dtype: Any) -> Array:
    """Return the classes as an array in the labels' own dtype where the caller's labels had one that fits."""
    if isinstance(dtype, np.dtype) and dtype.kind in "biufO":
        found = np.empty(len(classes), dtype=dtype)
        found[:] = classes
        return found
    return np.array(classes)


def require_real(name: str, value: Any, low: float, *, inclusive: bool, wanted: str) -> None:
    """Raise ParameterError unless ``value`` is a finite real number above (or at) ``low``."""
    fine = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or value < low or (value == low and not inclusive):
        raise ParameterError(name, value, f"write {wanted}, a finite number {'>=' if inclusive else '>'} {low:g}")


def require_whole(name: str, value: Any, low: int, wanted: str) -> None:
    """Raise ParameterError unless ``value`` is a whole number of at least ``low``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ParameterError(name, value, f"write {wanted}")
