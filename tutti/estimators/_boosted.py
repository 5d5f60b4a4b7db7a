"""The one flow of boosted trees: data, learner, plan, run, attributes; prediction over blocks of rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np

from tutti.errors import DataError, InputError, ModelError, ParameterError
from tutti.estimators._base import Estimator
from tutti.estimators._boosted_params import (
    check_memory,
    columns_of,
    groups_of,
    part_of_columns,
    signs_of,
    strategy_of,
)
from tutti.estimators._categories import Categories, find, numbered
from tutti.estimators._forest_params import check_weights
from tutti.estimators._intake import as_dataset, is_dataset, refuse_infinity
from tutti.estimators._linear import labels_array, require_real, require_whole
from tutti.estimators._progress import TreeProgress
from tutti.learners.boosting import Boosting
from tutti.planner import Choice, Explanation, explain
from tutti.planner.choose import engine_of
from tutti.protocols import Learner
from tutti.runtime.driver import draft_plan, train
from tutti.runtime.report import make_report
from tutti.seeds import run_seed
from tutti.types import Array, Csr, Result, Schema

_ROWS = 1 << 16  # rows of a sparse matrix that are written out at a time
_SMALL = 1 << 19  # steps through trees that one thread takes before a second one has started
_GROW = ("depthwise", "leafwise")


@dataclass(frozen=True)
class Job:
    """A fit that is decided in full and has not begun."""

    dataset: Any
    schema: Schema
    choice: Choice
    explanation: Explanation
    categories: Categories


class BoostedTrees(Estimator):
    """Fit, explain, predict and save for boosted trees."""

    _task: ClassVar[str]
    _losses: ClassVar[tuple[str, ...]]
    loss: str
    learning_rate: float
    n_estimators: int
    max_depth: int | None
    max_leaf_nodes: int | None
    grow: str
    min_samples_leaf: int
    min_child_weight: float
    min_gain: float
    l2_regularization: float
    subsample: float
    max_features: Any
    max_bins: int
    monotonic_cst: Any
    interaction_cst: Any
    categorical_features: Any
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    random_state: Any
    warm_start: bool
    strategy: Any
    engine: Any
    n_shards: int
    verbose: int
    n_features_in_: int
    model_: dict[str, Array]
    _forest: Any
    _categories: Categories

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Grow the trees; the same bits for any number of workers.

        Parameters
        ----------
        X : (n_rows, n_features) array, scipy sparse matrix, pandas or polars frame, Arrow table or torch tensor, NaN
            where a value is missing; or a tutti Dataset; or the path or URL of a .svm, .csv or .parquet file.
        y : (n_rows,) labels or targets; the name of the label column if X is a file of columns; else None.
        sample_weight : (n_rows,) weights >= 0 of arrays; a weight of k counts like k equal rows.

        Raises
        ------
        InputError : the data, a parameter or their combination is wrong.
        RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.
        """
        self._check_params()
        job, label_dtype = self._intake(X, y, sample_weight)
        start = self._start(job.schema)
        rounds = int(self.n_estimators) - (self.n_iter_ if start is not None else 0)
        with TreeProgress(type(self).__name__, bool(self.verbose), rounds) as watch:
            result = train(
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
        self._adopt(job, result, label_dtype)
        return self

    def explain(self, X: Any, y: Any = None, sample_weight: Any = None) -> Explanation:
        """Return the plan of ``fit`` with the same arguments; nothing is started."""
        self._check_params()
        return self._intake(X, y, sample_weight)[0].explanation

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder (model.json and safetensors, no pickle); `tutti.load` reads it."""
        from tutti.estimators.store import save

        save(self, path)

    def to_xgboost_json(self) -> str:
        """Return the model as the JSON text that ``xgboost.Booster.load_model`` reads from a file.

        XGBoost compares in float32: rows of float64 that lie within its rounding of a cut may fall to the other side.

        Raises
        ------
        InputError : the model has splits on categories whose values are not the whole numbers 0, 1, 2, ...
        """
        from tutti.estimators._xgboost_json import to_json

        self._check_fitted()
        return to_json(self)

    def apply(self, X: Any) -> Array:
        """Return the number of the leaf, within its tree, that each row falls into: (n_rows, n_trees)."""
        self._check_fitted()
        forest = self._forest
        found = []
        for x in self._blocks(X):
            out = np.empty((len(x), forest.n_trees), np.int64)
            forest.apply(x, out)
            found.append(out)
        return np.concatenate(found)

    @property
    def feature_importances_(self) -> Array:
        """The part of each column in the sum of all gains."""
        self._check_fitted()
        inner = self.model_["feature"] >= 0
        total = np.bincount(
            self.model_["feature"][inner], weights=self.model_["gain"][inner], minlength=self.n_features_in_
        )
        whole = total.sum()
        found: Array = total / whole if whole > 0 else total
        return found

    # what the estimators differ in

    def _of_task(self, schema: Schema) -> dict[str, Any]:
        """Return the settings of the learner that depend on the task."""
        raise NotImplementedError

    def _check_params(self) -> None:
        """Raise ParameterError for the first parameter that is out of its range."""
        if self.loss not in self._losses:
            raise ParameterError("loss", self.loss, f"write one of {', '.join(map(repr, self._losses))}")
        if self.grow not in _GROW:
            raise ParameterError("grow", self.grow, "write 'depthwise' or 'leafwise'")
        require_whole("n_estimators", self.n_estimators, 1, "a whole number of rounds, at least 1")
        require_real("learning_rate", self.learning_rate, 0.0, inclusive=False, wanted="a factor such as 0.1")
        if self.max_depth is not None:
            require_whole("max_depth", self.max_depth, 1, "None or a whole number of at least 1")
        if self.max_leaf_nodes is not None:
            require_whole("max_leaf_nodes", self.max_leaf_nodes, 2, "None or a whole number of at least 2")
        if self.max_depth is None and self.max_leaf_nodes is None:
            raise ParameterError("max_depth", None, "bound the trees by max_depth or by max_leaf_nodes")
        require_whole("min_samples_leaf", self.min_samples_leaf, 1, "a whole number of rows, at least 1")
        for name in ("min_child_weight", "min_gain", "l2_regularization", "tol"):
            require_real(name, getattr(self, name), 0.0, inclusive=True, wanted="a number such as 1.0")
        for name, top in (("subsample", 1.0), ("validation_fraction", 0.999)):
            require_real(name, getattr(self, name), 0.0, inclusive=False, wanted="a part of the rows")
            if getattr(self, name) > top:
                raise ParameterError(name, getattr(self, name), f"write a part of the rows, at most {top:g}")
        require_whole("n_iter_no_change", self.n_iter_no_change, 1, "a whole number of rounds, at least 1")
        require_whole("n_shards", self.n_shards, 1, "a whole number of at least 1 (the default is 8)")
        require_whole("max_bins", self.max_bins, 2, "a whole number of bins, 2 to 255")
        if self.max_bins > 255:
            raise ParameterError("max_bins", self.max_bins, "write a whole number of bins, 2 to 255")
        for name in ("early_stopping", "warm_start"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ParameterError(name, getattr(self, name), "write True or False")

    # the flow

    def _intake(self, X: Any, y: Any, sample_weight: Any) -> tuple[Job, Any]:
        """Return (job, dtype of the labels)."""
        name, wanted = type(self).__name__, self.categorical_features
        if is_dataset(X) or isinstance(X, str | os.PathLike):
            dataset, dtype = as_dataset(X, y, sample_weight, name)
            schema = dataset.schema(self._task)
            columns = columns_of(wanted, schema.n_features, schema.feature_names)
            return self._job(dataset, schema, Categories(columns, (None,) * len(columns))), dtype
        categories = find(X, wanted)
        dataset, dtype = as_dataset(numbered(X, categories, known=False), y, sample_weight, name, missing=True)
        schema = refuse_infinity(dataset, missing=True).schema(self._task)
        return self._job(dataset, schema, categories), dtype

    def _job(self, dataset: Any, schema: Schema, categories: Categories) -> Job:
        if self.min_samples_leaf > schema.n_rows:
            raise ParameterError(
                "min_samples_leaf", self.min_samples_leaf, f"the data has {schema.n_rows:,} rows; write fewer"
            )
        check_weights(schema, 48)
        learner = cast(Learner, self._learner(schema, categories.columns))
        reason = "histograms of whole numbers: one exact sum a level of each tree"
        choice = Choice(learner, strategy_of(self.strategy), engine_of(self.engine, schema), reason)
        plan = draft_plan(dataset, schema, learner, choice.strategy, choice.engine, int(self.n_shards))
        check_memory(plan)
        kept = dataset.keeps(schema)
        trees = f"{self.n_estimators:,} rounds" + (", fewer where validation stalls" if self.early_stopping else "")
        found = explain(choice, plan, schema, kept=kept, read=kept != "memory", goal=trees)
        return Job(dataset, schema, choice, dataclasses.replace(found, loss=self.loss), categories)

    def _learner(self, schema: Schema, categorical: tuple[int, ...]) -> Boosting:
        names = schema.feature_names
        return Boosting(
            n_estimators=int(self.n_estimators),
            learning_rate=float(self.learning_rate),
            max_depth=None if self.max_depth is None else int(self.max_depth),
            max_leaf_nodes=None if self.max_leaf_nodes is None else int(self.max_leaf_nodes),
            grow=cast(Any, self.grow),
            l2=float(self.l2_regularization),
            min_child_weight=float(self.min_child_weight),
            min_samples_leaf=int(self.min_samples_leaf),
            min_gain=float(self.min_gain),
            subsample=float(self.subsample),
            max_features=part_of_columns(self.max_features, schema.n_features),
            max_bins=int(self.max_bins),
            monotonic=signs_of(self.monotonic_cst, schema.n_features, names, categorical),
            categorical=categorical,
            interaction=groups_of(self.interaction_cst, schema.n_features, names),
            early_stopping=bool(self.early_stopping),
            validation_fraction=float(self.validation_fraction),
            n_iter_no_change=int(self.n_iter_no_change),
            tol=float(self.tol),
            **self._of_task(schema),
        )

    def _start(self, schema: Schema) -> dict[str, Array] | None:
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return None
        classes = getattr(self, "classes_", None)
        fitted = None if classes is None else tuple(classes.tolist())
        if self.n_features_in_ != schema.n_features or (fitted is not None and fitted != schema.classes):
            raise InputError(
                f"warm_start=True continues from a model of {self.n_features_in_} features, which does not fit this "
                "data (features or classes differ); set warm_start=False"
            )
        if self.n_estimators < self.n_iter_:
            raise ParameterError(
                "n_estimators", self.n_estimators, f"warm_start=True goes on from {self.n_iter_} rounds; write more"
            )
        return dict(self.model_)

    def _adopt(self, job: Job, result: Result, label_dtype: Any) -> None:
        schema = job.schema
        self._set_model({k: np.array(v) for k, v in result.arrays.items() if k != "status"})
        self.n_features_in_ = schema.n_features
        self._categories = job.categories
        self._set_names(schema.feature_names)
        if schema.classes is not None:
            self.classes_ = labels_array(schema.classes, label_dtype)
        self._set_scores()
        self.history_ = [
            {"step": r.step, "seconds": r.seconds, "loss": r.objective, **r.metrics} for r in result.history
        ]
        self.plan_ = job.explanation.plan
        self.report_ = make_report(result, self.model_)

    def _set_scores(self) -> None:
        self.n_iter_ = (len(self.model_["offset"]) - 1) // len(self.model_["base"])
        self.n_estimators_ = self.n_iter_
        self.train_score_ = self.model_["train_score"][1:]
        self.validation_score_ = self.model_["validation_score"][1:]

    # prediction

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_forest"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "model_" in state:
            self._set_model(state["model_"])

    def _set_model(self, model: dict[str, Array]) -> None:
        from tutti.learners._boosting_model import Forest

        self.model_, self._forest = model, Forest.of(model)

    def _raw(self, X: Any) -> Array:
        """Return (n_rows, n_outputs) sums of leaves of arrays or of a Dataset, in the order of its rows."""
        self._check_fitted()
        found = [self._sum(x) for x in self._blocks(X)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _sum(self, x: Array) -> Array:
        forest = self._forest
        f = np.repeat(self.model_["base"][None, :], len(x), axis=0)
        _in_parallel(lambda lo, hi: forest.add(x, f, lo, hi, 0, forest.n_trees), len(x), forest.n_trees)
        return f

    def _staged(self, X: Any) -> Iterator[Array]:
        """Yield what `_raw` returns after each round."""
        self._check_fitted()
        forest, k = self._forest, len(self.model_["base"])
        blocks = list(self._blocks(X))
        sums = [np.repeat(self.model_["base"][None, :], len(x), axis=0) for x in blocks]
        for t in range(0, forest.n_trees, k):
            for x, f in zip(blocks, sums, strict=True):
                forest.add(x, f, 0, len(x), t, t + k)
            yield np.concatenate(sums)

    def _blocks(self, X: Any) -> Iterator[Array]:
        """Yield the rows as C-ordered values, codes where a column is categorical."""
        if is_dataset(X):
            for block in X.predict_blocks(self.n_features_in_):
                yield from self._dense(block.x)
            return
        from tutti.data.convert import features

        x, names = features(numbered(X, self._categories, known=True), missing=True)
        self._check_names(names)
        if x.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {x.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input."
            )
        yield from self._dense(x)

    def _dense(self, x: Array | Csr) -> Iterator[Array]:
        if not isinstance(x, Csr):
            yield self._coded(np.ascontiguousarray(x), 0)
            return
        n = len(x.indptr) - 1
        for lo in range(0, n, _ROWS):
            hi = min(lo + _ROWS, n)
            out = np.zeros((hi - lo, x.n_features), x.values.dtype)
            a, b = int(x.indptr[lo]), int(x.indptr[hi])
            out[np.repeat(np.arange(hi - lo), np.diff(x.indptr[lo : hi + 1])), x.indices[a:b]] = x.values[a:b]
            yield self._coded(out, lo)

    def _coded(self, x: Array, first: int) -> Array:
        infinite = np.isinf(x)
        if infinite.any():
            row, column = np.argwhere(infinite)[0].tolist()
            message = f"Input X contains infinity or a value too large for dtype('{x.dtype}')."
            raise DataError(message, row=first + row, column=column)
        categorical = np.flatnonzero(self.model_["bin_categorical"]).tolist()
        if not categorical:
            return x
        from tutti.learners._bins import Bins
        from tutti.learners._kernels.bins import encode_categories

        bins, coded = Bins.from_arrays(self.model_), x.copy()
        codes = np.empty(len(x), np.uint8)
        for j in categorical:
            column = np.ascontiguousarray(x[:, j])
            unknown = encode_categories(column, bins.values_of(j), codes)
            if unknown >= 0:
                raise DataError(
                    f"category {float(column[unknown])!r} was not there at fit; write NaN where it is unknown",
                    row=first + unknown,
                    column=j,
                )
            coded[:, j] = codes
        return coded

    def _labels_of(self, dataset: Any) -> tuple[Array, Array | None]:
        """Return (class codes or targets, weights) of all rows of a Dataset."""
        self._check_fitted()
        classes = tuple(self.classes_.tolist()) if hasattr(self, "classes_") else None
        blocks = list(dataset.predict_blocks(self.n_features_in_, classes))
        if any(not len(b.y) for b in blocks):
            raise DataError("the Dataset has no labels to compare with: name the label column when reading it")
        weights = [b.weight for b in blocks if b.weight is not None]
        return np.concatenate([b.y for b in blocks]), np.concatenate(weights) if weights else None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # storage

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        from tutti.estimators.store import fitted_facts

        names = [None if v is None else list(v) for v in self._categories.values]
        return dict(self.model_), {**fitted_facts(self), "categories": names}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        from tutti.estimators._boosted_check import check_arrays
        from tutti.estimators.store import restored_classes, restored_report

        d, classes = int(facts["n_features"]), facts["classes"]
        outputs = 1
        if classes is not None:
            self.classes_ = restored_classes(classes)
            outputs = len(self.classes_) if len(self.classes_) > 2 else 1
        check_arrays(arrays, d, outputs, (classes is None) == (self._task == "regression"))
        columns = tuple(np.flatnonzero(arrays["bin_categorical"]).tolist())
        if len(facts["categories"]) != len(columns):
            raise ModelError("the categories do not fit the columns")
        self._categories = Categories(columns, tuple(None if v is None else tuple(v) for v in facts["categories"]))
        self._set_model(arrays)
        self._names_from_store(facts["feature_names"], d)
        self.n_features_in_ = d
        self._set_scores()
        self.report_ = restored_report(facts["report"])


def _in_parallel(work: Any, n: int, n_trees: int) -> None:
    """Call work(lo, hi) for parts of n rows, on all cores where that pays."""
    from tutti.data.memory import cores

    parts = cores() if n * n_trees > _SMALL else 1
    if parts == 1:
        work(0, n)
        return
    cuts = [n * i // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(parts, "tutti-predict") as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))
