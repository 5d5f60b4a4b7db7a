"""Random forests on binned columns: scikit-learn's grammar, the same bits for any number of workers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tutti.errors import DataError
from tutti.estimators import _forest_multi
from tutti.estimators._categories import Categories
from tutti.estimators._classifier import accuracy, class_factors
from tutti.estimators._forest import ForestEstimator
from tutti.estimators._forest_multi import Intake
from tutti.estimators._intake import is_dataset
from tutti.estimators.linear import r2
from tutti.types import Array, Result, Schema


class RandomForestClassifier(ForestEstimator):
    """Bagged classification trees; a row's probabilities are the mean over the trees of the shares in its leaf.

    Columns are cut into at most 255 bins: exactly where a column has at most 255 distinct values, else by quantiles.
    Rows are drawn for a tree with Poisson(1) weights, rows and features by bits of their own numbers, and sums are
    whole numbers: the forest does not depend on the number of workers.  Rows of several labels (y of n_outputs columns)
    are split by the mean of their impurities.

    Parameters
    ----------
    n_estimators : trees.
    criterion : "gini", "entropy" or "log_loss" (the same as entropy).
    max_depth : most splits above a leaf; None for no bound.
    min_samples_split, min_samples_leaf : rows of a node that is split, and of a leaf, rows that were drawn several
        times counted once; a float is a share of the rows.
    min_weight_fraction_leaf : least weight of a leaf, as a share of the weight of the rows drawn.
    max_features : features drawn for each node: "sqrt", "log2", None (all), a number, or a share.
    max_leaf_nodes : most leaves; the leaf that gains most is split next.  None for no bound.
    min_impurity_decrease : least decrease of the impurity, weighted by the share of the rows, for a split.
    bootstrap : False grows every tree on all rows; "balanced" draws for each tree, with replacement, as many rows
        of each class as the rarest class has (Chen, Liaw, Breiman, 2004).
    oob_score : True also scores the forest on rows that trees have not drawn; or a function (y, predicted) -> float.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    verbose : 1 shows the progress of a fit that takes longer than a second.
    warm_start : True adds trees to those of the last fit.
    class_weight : None, {class: weight}, "balanced" (n / (K n_k) in all rows), or "balanced_subsample" (in the rows of
        each tree).  Of several labels the weights of a row's classes are multiplied; a list has a dict for each label.
    ccp_alpha : cost-complexity pruning: links weaker than this are cut.
    max_samples : rows drawn for a tree, on average: a number or a share; None: as many as there are.  With
        bootstrap="balanced" exactly, of all classes together, and a share of what would be drawn.
    monotonic_cst : 1 (the probability of the second class rises), -1 (falls) or 0 for each column, or {column or name:
        sign}; for two classes.  A split whose sides are not in order is refused.  Missing values are in no order.
    categorical_features : columns whose values are names, not numbers: "from_dtype" (a frame's categorical columns), a
        mask, or a list of column numbers or names.  At most 255 categories; they are ordered by the share of the second
        of two classes, or of the node's most frequent class of several.  One unknown in a prediction is refused.
    strategy : "auto" (tutti.TaskParallel()), or tutti.AllReduce(), which leaves rows with the workers that hold them.
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job: tasks in which rows are read and binned.

    Attributes
    ----------
    classes_, n_classes_, n_outputs_ : sorted labels, their number, and labels of a row; lists for several labels.
    estimators_ : the trees one by one.   trees_ : all of them as flat arrays.
    feature_importances_ : (n_features,) mean decrease of the impurity.
    oob_score_, oob_decision_function_ : accuracy and probabilities of rows from trees that have not drawn them; NaN
        for a row that all trees have drawn; (n_rows, n_classes, n_outputs) for several labels.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    history_ : one dict per stage.   plan_, report_ : what was planned, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]] * 5), np.array([0, 0, 1, 1] * 5)
    >>> RandomForestClassifier(20).fit(X, y).predict([[0.2], [2.8]]).tolist()
    [0, 1]
    """

    _estimator_type: ClassVar[str] = "classifier"
    _task: ClassVar[str] = "classification"
    _criteria: ClassVar[tuple[str, ...]] = ("gini", "entropy", "log_loss")
    oob_decision_function_: Any

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "gini",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: Any = "sqrt",
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        bootstrap: bool | str = True,
        oob_score: Any = False,
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
        class_weight: Any = None,
        ccp_alpha: float = 0.0,
        max_samples: int | float | None = None,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.bootstrap = bootstrap
        self.oob_score = oob_score
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start
        self.class_weight = class_weight
        self.ccp_alpha = ccp_alpha
        self.max_samples = max_samples
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards

    def predict_proba(self, X: Any) -> Any:
        """Return (n_rows, n_classes) probabilities; a list of them for several labels."""
        means = self._means(X)
        return _forest_multi.by_label(means, self.classes_) if isinstance(self.classes_, list) else means

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of `predict_proba`."""
        p = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return [np.log(q) for q in p] if isinstance(p, list) else np.log(p)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row, (n_rows, n_outputs) for several labels."""
        means = self._means(X)
        if isinstance(self.classes_, list):
            return _forest_multi.named(means, self.classes_)
        found: Array = self.classes_[means.argmax(axis=1)]
        return found

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy: the (weighted) share of rows whose class is predicted; a Dataset brings its labels.

        Of several labels all have to be right.
        """
        self._check_fitted()
        if isinstance(self.classes_, list):
            if is_dataset(X):
                raise DataError("a Dataset has one label a row: score several labels on arrays")
            return _forest_multi.all_right(self.predict(X), y, sample_weight)
        if is_dataset(X):
            p = self._means(X).argmax(axis=1)
            codes, weight = labelled(X, self.n_features_in_, tuple(self.classes_.tolist()))
            return float(np.average(p == codes, weights=weight))
        return accuracy(self.predict(X), y, sample_weight)

    def _more(self, schema: Schema) -> dict[str, Any]:
        if self.class_weight == "balanced_subsample":
            return {"balanced_subsample": True}
        return {"class_weight": class_factors(self.class_weight, schema)}

    def _several(self, categories: Categories, X: Any, target: Array, sample_weight: Any) -> Intake:
        return _forest_multi.classification(self, categories, X, target, sample_weight)

    def _same_classes(self, schema: Schema, taken: Intake) -> bool:
        if not isinstance(self.classes_, list):
            return bool(list(schema.classes or ()) == self.classes_.tolist())
        return [c.tolist() for c in taken.classes] == [c.tolist() for c in self.classes_]

    def _after(self, result: Result, schema: Schema) -> None:
        if not self.oob_score:
            return
        votes = result.arrays["votes"]
        with np.errstate(invalid="ignore"):
            found = votes[:, :-1] / votes[:, -1:]
        seen = votes[:, -1] > 0
        if isinstance(self.classes_, list):
            self._oob_of_labels(found, result.arrays["oob_target"], seen)
            return
        self.oob_decision_function_ = found
        codes = result.arrays["oob_target"].astype(np.int64)
        predicted = votes[:, :-1].argmax(axis=1)
        if callable(self.oob_score):
            self.oob_score_ = self.oob_score(self.classes_[codes[seen]], self.classes_[predicted[seen]])
        else:
            self.oob_score_ = float((predicted == codes)[seen].mean()) if seen.any() else float("nan")

    def _oob_of_labels(self, found: Array, target: Array, seen: Array) -> None:
        parts = _forest_multi.by_label(found, self.classes_)
        alike = len(set(self.n_classes_)) == 1
        self.oob_decision_function_ = np.stack(parts, axis=2) if alike else parts
        predicted, right = (_forest_multi.named(a[seen], self.classes_) for a in (found, target))
        if callable(self.oob_score):
            self.oob_score_ = self.oob_score(right, predicted)
        else:
            self.oob_score_ = float((predicted == right).all(axis=1).mean()) if seen.any() else float("nan")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags


class RandomForestRegressor(ForestEstimator):
    """Bagged regression trees; a row's prediction is the mean over the trees of the means in its leaf.

    Columns are cut into bins and rows drawn as in `RandomForestClassifier`; targets are summed as whole numbers of more
    than 30 bits.  Several outputs share their trees.

    Parameters
    ----------
    n_estimators : trees.
    criterion : "squared_error".
    max_depth : most splits above a leaf; None for no bound.
    min_samples_split, min_samples_leaf : rows of a node that is split, and of a leaf, rows that were drawn several
        times counted once; a float is a share of the rows.
    min_weight_fraction_leaf : least weight of a leaf, as a share of the weight of the rows drawn.
    max_features : features drawn for each node: "sqrt", "log2", None (all), a number, or a share.
    max_leaf_nodes : most leaves; the leaf that gains most is split next.  None for no bound.
    min_impurity_decrease : least decrease of the impurity, weighted by the share of the rows, for a split.
    bootstrap : False grows every tree on all rows.
    oob_score : True also scores the forest on rows that trees have not drawn; or a function (y, predicted) -> float.
    random_state : None (means 0), int or numpy generator; base of all random numbers of the run.
    verbose : 1 shows the progress of a fit that takes longer than a second.
    warm_start : True adds trees to those of the last fit.
    ccp_alpha : cost-complexity pruning: links weaker than this are cut.
    max_samples : rows drawn for a tree, on average: a number or a share; None: as many as there are.
    monotonic_cst : 1 (the prediction rises), -1 (falls) or 0 for each column, or {column or name: sign}; for one
        target.  A split whose sides are not in order is refused.  Missing values are in no order.
    categorical_features : columns whose values are names, not numbers: "from_dtype" (a frame's categorical columns), a
        mask, or a list of column numbers or names.  At most 255 categories; they are ordered by the mean of the (first)
        target in the node.  One unknown in a prediction is refused.
    strategy : "auto" (tutti.TaskParallel()), or tutti.AllReduce(), which leaves rows with the workers that hold them.
    engine : "auto" or an object such as tutti.Processes(4).
    n_shards : logical shards of the job: tasks in which rows are read and binned.

    Attributes
    ----------
    n_outputs_ : targets of a row.
    estimators_ : the trees one by one.   trees_ : all of them as flat arrays.
    feature_importances_ : (n_features,) mean decrease of the impurity.
    oob_score_, oob_prediction_ : R^2 and predictions of rows from trees that have not drawn them; NaN for a row that
        all trees have drawn.
    n_features_in_, feature_names_in_ : width of the data; names if all columns have one.
    history_ : one dict per stage.   plan_, report_ : what was planned, and what was measured.

    Example
    -------
    >>> import numpy as np
    >>> X = np.arange(40.0)[:, None]
    >>> model = RandomForestRegressor(20, bootstrap=False).fit(X, X[:, 0] ** 2)
    >>> round(float(model.predict([[7.0]])[0]), 6)
    49.0
    """

    _estimator_type: ClassVar[str] = "regressor"
    _task: ClassVar[str] = "regression"
    _criteria: ClassVar[tuple[str, ...]] = ("squared_error",)

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "squared_error",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: Any = 1.0,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        bootstrap: bool = True,
        oob_score: Any = False,
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
        ccp_alpha: float = 0.0,
        max_samples: int | float | None = None,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.bootstrap = bootstrap
        self.oob_score = oob_score
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start
        self.ccp_alpha = ccp_alpha
        self.max_samples = max_samples
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards

    def predict(self, X: Any) -> Array:
        """Return (n_rows,) predictions, (n_rows, n_outputs) for several outputs."""
        values = self._means(X)
        return values[:, 0] if self.n_outputs_ == 1 else values

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R^2, the mean over several outputs; a Dataset brings its targets."""
        from tutti.data.convert import as_numpy, weights

        predicted = self.predict(X)
        if is_dataset(X):
            target, weight = labelled(X, self.n_features_in_, None)
            return r2(target, predicted, weight)
        target = np.asarray(as_numpy(y), np.float64)
        weight = None if sample_weight is None else weights(sample_weight, len(predicted))
        if target.size != predicted.size:
            raise DataError(f"y has the shape {target.shape}, the predictions {predicted.shape}")
        both = target.reshape(len(predicted), -1), predicted.reshape(len(predicted), -1)
        return float(np.mean([r2(t, p, weight) for t, p in zip(both[0].T, both[1].T, strict=True)]))

    def _after(self, result: Result, schema: Schema) -> None:
        if not self.oob_score:
            return
        votes, target = result.arrays["votes"], result.arrays["oob_target"]
        with np.errstate(invalid="ignore"):
            found = votes[:, :-1] / votes[:, -1:]
        seen = votes[:, -1] > 0
        self.oob_prediction_ = found[:, 0] if self.n_outputs_ == 1 else found
        if callable(self.oob_score):
            self.oob_score_ = self.oob_score(np.squeeze(target[seen]), np.squeeze(found[seen]))
        else:
            scores = [r2(t[seen], p[seen], None) for t, p in zip(target.T, found.T, strict=True)]
            self.oob_score_ = float(np.mean(scores)) if seen.any() else float("nan")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def labelled(dataset: Any, n_features: int, classes: tuple[Any, ...] | None) -> tuple[Array, Array | None]:
    """Return (class codes or targets, weights) of all rows of a Dataset."""
    targets, weights = [], []
    for block in dataset.predict_blocks(n_features, classes):
        if not len(block.y):
            raise DataError("the Dataset has no labels to compare with: name the label column when reading it")
        targets.append(block.y)
        if block.weight is not None:
            weights.append(block.weight)
    return np.concatenate(targets), np.concatenate(weights) if weights else None
