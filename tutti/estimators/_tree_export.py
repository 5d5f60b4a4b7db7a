"""Forests as scikit-learn's own objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutti.errors import ModelError
from tutti.estimators._tree_view import values_of
from tutti.learners._trees import Trees


def to_sklearn(forest: Any) -> Any:
    """Return a fitted RandomForestClassifier or RandomForestRegressor of scikit-learn with the same trees."""
    from sklearn import ensemble, tree

    if len(forest.trees_.sets):
        raise ModelError("scikit-learn's trees know no categories: fit on one-hot columns to export the forest")
    classifier = forest._task == "classification"
    name = "Classifier" if classifier else "Regressor"
    params = {"criterion": forest.criterion}
    made = getattr(ensemble, f"RandomForest{name}")
    # the forest alone is told of signs: trees that know theirs refuse rows with missing values
    model = made(n_estimators=forest.trees_.n_trees, monotonic_cst=_monotonic_of(forest), **params)
    one = getattr(tree, f"DecisionTree{name}")
    model.estimator_ = one()
    model.n_features_in_, model.n_outputs_ = forest.n_features_in_, forest.n_outputs_
    if hasattr(forest, "feature_names_in_"):
        model.feature_names_in_ = forest.feature_names_in_
    if classifier:
        model.classes_, model.n_classes_ = forest.classes_, forest.n_classes_
    model.estimators_ = [_member(one(**params), forest, t) for t in range(forest.trees_.n_trees)]
    return model


def _monotonic_of(forest: Any) -> Any:
    """Return ``monotonic_cst`` as scikit-learn writes it, an array of a sign for each column, or None."""
    from tutti.estimators._boosted_params import signs_of

    names = tuple(forest.feature_names_in_) if hasattr(forest, "feature_names_in_") else None
    signs = signs_of(forest.monotonic_cst, forest.n_features_in_, names)
    return np.array(signs, np.int8) if signs else None


def _member(member: Any, forest: Any, t: int) -> Any:
    member.n_features_in_, member.n_outputs_ = forest.n_features_in_, forest.n_outputs_
    member.max_features_ = forest.n_features_in_
    n_classes = np.ones(forest.n_outputs_, np.intp)
    if forest._task == "classification":
        n_classes = np.array(forest.n_classes_, np.intp).reshape(-1)
        codes = [np.arange(n) for n in n_classes]
        several = isinstance(forest.classes_, list)
        member.classes_, member.n_classes_ = (codes, n_classes) if several else (codes[0], n_classes[0])
    member.tree_ = _structure(forest, forest.trees_.tree(t), n_classes)
    return member


def _structure(forest: Any, trees: Trees, n_classes: Any) -> Any:
    from sklearn.tree._tree import Tree

    structure = Tree(forest.n_features_in_, n_classes, forest.n_outputs_)
    leaf = trees.feature < 0
    nodes = np.zeros(len(leaf), dtype=structure.__getstate__()["nodes"].dtype)
    nodes["left_child"] = np.where(leaf, -1, trees.left)
    nodes["right_child"] = np.where(leaf, -1, trees.right)
    nodes["feature"] = np.where(leaf, -2, trees.feature)
    nodes["threshold"] = np.where(leaf, -2.0, trees.cut)
    nodes["impurity"], nodes["n_node_samples"] = trees.impurity * forest._impurity_unit, trees.n_rows
    nodes["weighted_n_node_samples"], nodes["missing_go_to_left"] = trees.weight, trees.missing_left
    values = values_of(trees, forest.classes_) if forest._task == "classification" else trees.value[:, :, None]
    depth = int(trees.depths().max())
    state = {"max_depth": depth, "node_count": len(leaf), "nodes": nodes, "values": np.ascontiguousarray(values)}
    structure.__setstate__(state)
    return structure
