"""The one flow of forests: data, plan, run, attributes, prediction, storage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from tutti.errors import DataError, InputError, ModelError, ParameterError
from tutti.estimators import _categories, _forest_multi
from tutti.estimators._base import Estimator, warn
from tutti.estimators._categories import Categories
from tutti.estimators._decision import check_finite
from tutti.estimators._forest_multi import Intake
from tutti.estimators._forest_params import check, learner_of, signs
from tutti.estimators._intake import as_dataset, is_dataset, refuse_infinity
from tutti.estimators._progress import RoundProgress
from tutti.estimators._tree_view import Members
from tutti.learners._bins import Bins
from tutti.learners._trees import Trees, Walker
from tutti.planner import Explanation, explain
from tutti.planner.choose import Choice, engine_of
from tutti.protocols import Strategy
from tutti.runtime.driver import draft_plan, train
from tutti.runtime.report import make_report
from tutti.seeds import run_seed
from tutti.types import Array, Csr, Result, Schema

_CHUNK = 16_384  # sparse rows are laid out densely, that many at a time


class ForestEstimator(Estimator):
    """Fit, explain, predict and save for forests."""

    _task: ClassVar[str]
    _criteria: ClassVar[tuple[str, ...]]
    n_estimators: int
    categorical_features: Any
    monotonic_cst: Any
    random_state: Any
    warm_start: bool
    oob_score: Any
    strategy: Any
    engine: Any
    n_shards: int
    verbose: int
    trees_: Trees
    classes_: Any
    n_classes_: Any
    n_features_in_: int

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Grow the forest; the same bits for any number of workers.

        Parameters
        ----------
        X : (n_rows, n_features) array, scipy sparse matrix, pandas or polars frame, Arrow table or torch tensor; or a
            tutti Dataset; or the path or URL of a .svm, .csv or .parquet file.  NaN is a missing value.
        y : (n_rows,) labels or targets, or (n_rows, n_outputs) of arrays; the name of the label column if X is a file
            of columns; else None.
        sample_weight : (n_rows,) weights >= 0 of arrays.

        Raises
        ------
        InputError : the data, a parameter or their combination is wrong; raised before any worker starts where the
            mistake can be seen there.
        RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.
        """
        check(self, self._criteria)
        taken = self._intake(X, y, sample_weight)
        schema = taken.dataset.schema(taken.task, least_classes=1)
        start = self._start(schema, taken)
        missing = int(self.n_estimators) - (0 if start is None else len(start["tree_offset"]) - 1)
        if missing == 0:
            warn("Warm-start fitting without increasing n_estimators does not fit new trees.", UserWarning)
            return self
        choice, explanation = self._plan(schema, missing, taken)
        with RoundProgress(type(self).__name__, bool(self.verbose)) as watch:
            result = train(
                choice.learner,
                taken.dataset,
                schema=schema,
                strategy=choice.strategy,
                engine=choice.engine,
                plan=explanation.plan,
                n_shards=int(self.n_shards),
                seed=run_seed(self.random_state),
                start=start,
                watch=watch,
            )
        self._adopt(schema, taken, result)
        self.plan_ = explanation.plan
        self._after(result, schema)
        return self

    def explain(self, X: Any, y: Any = None, sample_weight: Any = None) -> Explanation:
        """Return the plan of ``fit`` with the same arguments; nothing is started."""
        check(self, self._criteria)
        taken = self._intake(X, y, sample_weight)
        return self._plan(taken.dataset.schema(taken.task, least_classes=1), int(self.n_estimators), taken)[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder (model.json and safetensors, no pickle); `tutti.load` reads it.

        A tutti model at ``path`` is replaced as a whole; anything else there is left alone with an InputError.
        """
        from tutti.estimators.store import save

        save(self, path)

    # what classifier and regressor differ in

    def _more(self, schema: Schema) -> dict[str, Any]:
        return {}

    def _several(self, categories: Categories, X: Any, target: Array, sample_weight: Any) -> Intake:
        """Return the intake of (n_rows, n_outputs) labels or targets."""
        return _forest_multi.regression(categories, X, target, sample_weight)

    def _after(self, result: Result, schema: Schema) -> None:
        raise NotImplementedError

    # the flow of a fit

    def _intake(self, X: Any, y: Any, sample_weight: Any) -> Intake:
        name = type(self).__name__
        if is_dataset(X) or isinstance(X, str | os.PathLike):
            dataset, dtype = as_dataset(X, y, sample_weight, name)
            wanted = self.categorical_features
            n = dataset.schema(self._task, least_classes=1).n_features if wanted is not None else 0
            return Intake(_categories.find(np.empty((0, n)), wanted), dataset, self._task, dtype)
        categories = _categories.find(X, self.categorical_features)
        X = _categories.numbered(X, categories, known=False)
        if y is not None:
            from tutti.data.convert import as_numpy

            target = np.asarray(as_numpy(y))
            if target.ndim == 2 and target.shape[1] > 1:
                return self._several(categories, X, target, sample_weight)
        dataset, dtype = as_dataset(X, y, sample_weight, name, missing=True)
        return Intake(categories, refuse_infinity(dataset, missing=True), self._task, dtype)

    def _start(self, schema: Schema, taken: Intake) -> dict[str, Array] | None:
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return None
        trees, k = self.trees_, taken.n_targets or len(schema.classes or (0,))
        width = schema.n_features - taken.n_targets
        if width != self.n_features_in_ or trees.n_outputs != k or not self._same_classes(schema, taken):
            raise InputError(
                f"warm_start=True adds trees to a forest of {self.n_features_in_} features and "
                f"{trees.n_outputs} outputs, which does not fit this data; set warm_start=False"
            )
        if self.n_estimators < trees.n_trees:
            raise ParameterError(
                "n_estimators", self.n_estimators, f"with warm_start=True write at least {trees.n_trees}, what is there"
            )
        return trees.arrays()

    def _same_classes(self, schema: Schema, taken: Intake) -> bool:
        return True

    def _plan(self, schema: Schema, n_trees: int, taken: Intake) -> tuple[Choice, Explanation]:
        more = {} if taken.classes else self._more(schema)
        more |= {"categorical": taken.categories.columns, "n_targets": taken.n_targets}
        more["monotonic"] = signs(self, schema, taken)
        learner, dataset = learner_of(self, schema, n_trees, **more), taken.dataset
        if taken.classes:
            learner = _forest_multi.of_indicators(learner, taken.classes, getattr(self, "class_weight", None))
        strategy = self.strategy
        if isinstance(strategy, str) and strategy == "auto":
            from tutti.strategies.task_parallel import TaskParallel

            strategy = TaskParallel()
        if isinstance(strategy, type) or not isinstance(strategy, Strategy):
            raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.TaskParallel()')
        reason = f"{n_trees} trees, which need nothing from one another"
        choice = Choice(learner, strategy, engine_of(self.engine, schema), reason)
        plan = draft_plan(dataset, schema, learner, strategy, choice.engine, int(self.n_shards))
        kept = dataset.keeps(schema)
        goal = f"until {n_trees} trees are grown"
        return choice, explain(choice, plan, schema, kept=kept, read=kept != "memory", goal=goal)

    def _adopt(self, schema: Schema, taken: Intake, result: Result) -> None:
        from tutti.estimators._linear import labels_array

        self.trees_ = Trees.from_arrays(result.arrays)
        bins = Bins.from_arrays(result.arrays)
        self._categories = taken.categories
        self._category_values = [bins.values_of(j) for j in taken.categories.columns]
        self._walkers: dict[str, Walker] = {}
        self.n_features_in_ = schema.n_features - taken.n_targets
        self.n_outputs_ = len(taken.classes) or max(taken.n_targets, 1)
        self._set_names(taken.names if taken.n_targets else schema.feature_names)
        if taken.classes:
            self._set_classes(list(taken.classes))
        elif schema.classes is not None:
            self._set_classes(labels_array(schema.classes, taken.label_dtype))
        self.n_iter_ = max((r.step for r in result.history), default=1)
        self.history_ = [{"step": r.step, "seconds": r.seconds} for r in result.history]
        self.report_ = make_report(result, self.trees_.stored())

    def _set_classes(self, classes: Any) -> None:
        """Take the classes, a list of arrays where rows have several labels."""
        self.classes_ = classes
        self.n_classes_ = [len(c) for c in classes] if isinstance(classes, list) else len(classes)

    @property
    def _impurity_unit(self) -> float:
        """What a stored impurity, the mean over all indicators of several labels, is to be multiplied by."""
        several = isinstance(getattr(self, "classes_", None), list)
        return self.trees_.n_outputs / self.n_outputs_ if several else 1.0

    # what the trees say

    @property
    def estimators_(self) -> Members:
        """The trees one by one: len, iteration, and of each predict, get_depth, get_n_leaves and tree_."""
        self._check_fitted()
        return Members(self)

    @property
    def feature_importances_(self) -> Array:
        """(n_features,) share of the decrease of impurity that is due to each feature, mean over the trees."""
        from tutti.learners._kernels.tree_prune import importances

        self._check_fitted()
        t = self.trees_
        out = np.zeros((t.n_trees, self.n_features_in_))
        for i, g in t.groups():
            importances(g.offset, g.left, g.right, g.feature, g.weight, g.impurity, out[i : i + g.n_trees])
        grown = np.diff(t.offset) > 1
        if not grown.any():
            return np.zeros(self.n_features_in_)
        mean = out[grown].mean(axis=0)
        found: Array = mean / mean.sum() if mean.sum() > 0 else mean
        return found

    def apply(self, X: Any) -> Array:
        """Return (n_rows, n_trees) the leaf that each row ends in, counted inside its tree as scikit-learn does."""
        return np.concatenate([self._walker(x).apply(x, self._threads()) for x in self._rows_of(X)])

    def decision_path(self, X: Any) -> tuple[Any, Array]:
        """Return (indicator, n_nodes_ptr): a CSR matrix of the nodes that rows visit, and where each tree begins."""
        from scipy.sparse import csr_matrix, vstack

        parts = []
        for x in self._rows_of(X):
            indptr, indices = self._walker(x).paths(x)
            shape = (len(x), int(self.trees_.offset[-1]))
            parts.append(csr_matrix((np.ones(len(indices), np.int64), indices, indptr), shape=shape))
        return vstack(parts).tocsr(), self.trees_.offset.copy()

    def _means(self, X: Any) -> Array:
        """Return (n_rows, n_outputs) means of the leaves' values over the trees."""
        n = None
        parts = []
        for x in self._rows_of(X):
            n = self.trees_.n_trees
            parts.append(self._walker(x).sums(x, threads=self._threads()) / n)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _threads(self) -> int:
        return min(getattr(self.engine, "n", None) or os.cpu_count() or 1, os.cpu_count() or 1)

    def _walker(self, x: Array) -> Walker:
        name = x.dtype.name
        if name not in self._walkers:
            self._walkers[name] = Walker(self.trees_, x.dtype, self._threads())
        return self._walkers[name]

    def _rows_of(self, X: Any) -> Iterator[Array]:
        """Yield dense rows, C-ordered, categories as codes."""
        self._check_fitted()
        if is_dataset(X):
            for block in X.predict_blocks(self.n_features_in_):
                yield from self._dense(block.x)
            return
        from tutti.data.convert import features

        x, names = features(_categories.numbered(X, self._categories, known=True), missing=True)
        self._check_names(names)
        if x.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {x.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input."
            )
        yield from self._dense(x)

    def _dense(self, x: Array | Csr) -> Iterator[Array]:
        if isinstance(x, Csr):
            for lo in range(0, x.shape[0], _CHUNK):
                yield from self._dense(_laid_out(x, lo, min(lo + _CHUNK, x.shape[0])))
            return
        with np.errstate(invalid="ignore", over="ignore"):
            suspicious = not np.isfinite(x.sum())
        if suspicious and np.isinf(x).any():
            check_finite(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf))
        columns = self._categories.columns
        yield _categories.to_codes(x, columns, self._category_values) if columns else np.ascontiguousarray(x)

    # scikit-learn

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_walkers"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if "trees_" in state:
            self._walkers = {}

    def to_sklearn(self) -> Any:
        """Return scikit-learn's forest of the same trees; its predictions are the same.

        Raises
        ------
        ModelError : splits by categories, which scikit-learn's trees do not have.
        """
        from tutti.estimators._tree_export import to_sklearn

        self._check_fitted()
        return to_sklearn(self)

    # storage

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        from tutti.estimators.store import fitted_facts, plain_classes

        arrays = dict(self.trees_.stored())
        for i, values in enumerate(self._category_values):
            arrays[f"category_{i}"] = values
        names = [None if v is None else list(v) for v in self._categories.values]
        facts = {"columns": list(self._categories.columns), "values": names, "n_outputs": self.n_outputs_}
        if isinstance(getattr(self, "classes_", None), list):
            facts["classes"] = [plain_classes(c) for c in self.classes_]
        return arrays, {**fitted_facts(self), "forest": facts}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        from tutti.estimators._forest_store import checked_trees
        from tutti.estimators.store import restored_classes, restored_report

        d, own, classes = int(facts["n_features"]), facts["forest"], facts["classes"]
        several = own.get("classes")
        if (classes is None and several is None) != (self._task == "regression"):
            raise ModelError(f"{type(self).__name__} and the classes of the model do not fit together")
        self.n_outputs_ = width = int(own["n_outputs"])
        if several is not None:
            self._set_classes([restored_classes(c) for c in several])
            if len(several) != width:
                raise ModelError(f"classes of {len(several)} labels for {width} outputs")
            width = sum(self.n_classes_)
        elif classes is not None:
            self._set_classes(restored_classes(classes))
            width = self.n_classes_
        self.trees_ = checked_trees(arrays, d, width)
        columns = tuple(int(j) for j in own["columns"])
        values = tuple(None if v is None else tuple(v) for v in own["values"])
        if len(values) != len(columns) or not all(0 <= j < d for j in columns):
            raise ModelError("the categories do not fit the features")
        self._categories = Categories(columns, values)
        self._category_values = [arrays[f"category_{i}"].astype(np.float64) for i in range(len(columns))]
        self._walkers = {}
        self._names_from_store(facts["feature_names"], d)
        self.n_features_in_, self.n_iter_ = d, int(facts["n_iter"])
        self.report_ = restored_report(facts["report"])


def _laid_out(x: Csr, lo: int, hi: int) -> Array:
    """Return rows lo..hi of sparse rows as a dense array."""
    out = np.zeros((hi - lo, x.n_features), x.values.dtype)
    inside = slice(int(x.indptr[lo]), int(x.indptr[hi]))
    rows = np.repeat(np.arange(hi - lo), np.diff(x.indptr[lo : hi + 1]))
    out[rows, x.indices[inside]] = x.values[inside]
    return out
