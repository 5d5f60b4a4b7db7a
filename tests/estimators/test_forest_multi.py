"""Forests of rows with several labels, and of rows of one class: what scikit-learn's forests make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier as Theirs
from sklearn.model_selection import train_test_split
from sklearn.utils import compute_sample_weight

import tutti
from tutti.errors import InputError
from tutti.strategies.task_parallel import TaskParallel

RNG = np.random.default_rng(6)
X = RNG.integers(0, 40, (700, 4)).astype(np.float32)
Y = np.column_stack([X[:, 0] + X[:, 1] > 45, np.digitize(X[:, 2], [10, 20, 30]) + 5])
NAMES = np.column_stack([np.where(Y[:, 0], "yes", "no"), np.array(list("abcd"))[Y[:, 1] - 5]])


@pytest.mark.parametrize("criterion", ["gini", "entropy", "log_loss"])
def test_a_tree_on_all_rows_is_scikit_learns(criterion: str) -> None:
    how: dict[str, Any] = {"bootstrap": False, "max_features": None, "max_depth": 4, "min_impurity_decrease": 0.002}
    how["criterion"] = criterion
    ours = tutti.RandomForestClassifier(1, **how).fit(X, Y)
    seed = 0 if criterion == "gini" else 2  # by entropy two splits are equally good, and theirs draws one of them
    theirs = Theirs(1, random_state=seed, **how).fit(X, Y)
    a, b = ours.estimators_[0].tree_, theirs.estimators_[0].tree_
    np.testing.assert_array_equal(a.feature, b.feature)
    np.testing.assert_allclose(a.threshold, b.threshold)
    np.testing.assert_allclose(a.impurity, b.impurity, atol=1e-9)
    np.testing.assert_allclose(a.value, b.value, atol=1e-12)
    for p, q in zip(ours.predict_proba(X), theirs.predict_proba(X), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.feature_importances_, theirs.feature_importances_, atol=1e-9)


def test_pruning_and_class_weights_are_scikit_learns() -> None:
    how: dict[str, Any] = {"bootstrap": False, "max_features": None, "ccp_alpha": 0.01, "class_weight": "balanced"}
    ours = tutti.RandomForestClassifier(1, **how).fit(X, Y)
    theirs = Theirs(1, random_state=0, **how).fit(X, Y)
    assert ours.estimators_[0].get_n_leaves() == theirs.estimators_[0].get_n_leaves()
    listed = [{0: 1.0, 1: 3.0}, {5: 2.0}]
    a = tutti.RandomForestClassifier(3, bootstrap=False, class_weight=listed).fit(X, Y)
    weight = compute_sample_weight([{0: 1.0, 1: 3.0}, {5: 2.0, 6: 1.0, 7: 1.0, 8: 1.0}], Y)
    b = tutti.RandomForestClassifier(3, bootstrap=False).fit(X, Y, weight)
    assert a.report_.sha256 == b.report_.sha256


def test_balanced_in_the_rows_of_each_tree_is_balanced_where_trees_have_all_rows() -> None:
    for criterion in ("gini", "entropy"):
        how: dict[str, Any] = {"bootstrap": False, "max_features": None, "max_depth": 2, "criterion": criterion}
        ours = tutti.RandomForestClassifier(1, class_weight="balanced_subsample", **how).fit(X, Y)
        theirs = Theirs(1, random_state=0, class_weight="balanced_subsample", **how).fit(X, Y)
        for p, q in zip(ours.predict_proba(X), theirs.predict_proba(X), strict=True):
            np.testing.assert_allclose(p, q, atol=1e-6)


def test_balanced_trees_find_rare_classes_of_each_label() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6000, 6))
    y = np.column_stack([x[:, k] + rng.standard_normal(6000) > 2.6 for k in range(3)]).astype(int)
    x, more, y, right = x[:4000], x[4000:], y[:4000], y[4000:]
    how: dict[str, Any] = {"class_weight": "balanced_subsample", "min_samples_leaf": 20, "random_state": 0}
    plain = tutti.RandomForestClassifier(40, min_samples_leaf=20).fit(x, y).predict(more)
    ours = tutti.RandomForestClassifier(40, oob_score=True, **how).fit(x, y).predict(more)
    theirs = Theirs(40, **how).fit(x, y).predict(more)
    recall = [(p[right == 1] == 1).mean() for p in (plain, ours, theirs)]
    assert recall[1] > recall[0] + 0.2
    assert abs(recall[1] - recall[2]) < 0.08


def test_attributes_and_exports_have_scikit_learns_shape(tmp_path: Path) -> None:
    model = tutti.RandomForestClassifier(15, oob_score=True).fit(X, NAMES)
    theirs = model.to_sklearn()
    assert [c.tolist() for c in model.classes_] == [["no", "yes"], ["a", "b", "c", "d"]]
    assert (model.n_classes_, model.n_outputs_) == ([2, 4], 2)
    for p, q in zip(model.predict_proba(X), theirs.predict_proba(X), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    mean = np.mean([t.predict_proba(X)[1] for t in model.estimators_], axis=0)
    np.testing.assert_allclose(mean, model.predict_proba(X)[1], atol=1e-12)
    assert model.estimators_[0].predict(X).shape == (700, 2)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)[0]), model.predict_proba(X)[0])
    assert model.score(X, NAMES) == (model.predict(X) == NAMES).all(axis=1).mean() > 0.9
    assert 0.5 < model.oob_score_ < 1.0
    assert [p.shape for p in model.oob_decision_function_] == [(700, 2), (700, 4)]
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.n_classes_ == [2, 4]


@pytest.mark.thorough
def test_as_accurate_as_scikit_learns_on_labels() -> None:
    x, y = make_multilabel_classification(4000, n_features=15, n_classes=4, random_state=0)
    a, b, c, d = train_test_split(x, y, random_state=0)
    ours = tutti.RandomForestClassifier(60, oob_score=True).fit(a, c)
    assert ours.score(b, d) >= Theirs(60, random_state=0).fit(a, c).score(b, d) - 0.04
    assert ours.oob_decision_function_.shape == (3000, 2, 4)


@pytest.mark.parametrize(
    ("how", "weighted"),
    [
        ({}, False),
        ({"criterion": "entropy", "max_depth": 6}, True),
        ({"class_weight": "balanced_subsample"}, False),
        ({"class_weight": "balanced_subsample", "criterion": "entropy", "min_weight_fraction_leaf": 0.01}, True),
    ],
)
def test_same_bits_for_any_number_of_workers_in_both_layouts(how: dict[str, Any], weighted: bool) -> None:
    x, y = (np.tile(a, (8, 1)) for a in (X, Y))  # enough for nodes that are split on summed histograms
    x += np.random.default_rng(1).integers(0, 3, x.shape)
    weight = np.random.default_rng(2).random(len(x)) + 0.1 if weighted else None

    def sha(engine: Any, strategy: Any) -> str:
        model = tutti.RandomForestClassifier(6, engine=engine, strategy=strategy, **how)
        found: str = model.fit(x, y, weight).report_.sha256
        return found

    right = sha(tutti.Threads(1), "auto")
    for n in (2, 3, 5, 8):
        assert sha(tutti.Threads(n), TaskParallel("random")) == right
        assert sha(tutti.Threads(n), tutti.AllReduce()) == right
    assert sha(tutti.Processes(2), "auto") == right


def test_a_warm_start_adds_trees_of_the_same_labels() -> None:
    model = tutti.RandomForestClassifier(3, warm_start=True).fit(X, Y)
    model.set_params(n_estimators=8).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), tutti.RandomForestClassifier(8).fit(X, Y).predict(X))
    with pytest.raises(InputError, match="warm_start"):
        model.set_params(n_estimators=9).fit(X, NAMES)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bootstrap": "balanced"}, "no one rarest class"),
        ({"class_weight": "even"}, "list of one dict"),
        ({"class_weight": {0: 2.0}}, "list of one dict"),
        ({"class_weight": [{0: 1.0}]}, "one dict"),
        ({"class_weight": [{0: 1.0}, {9: 1.0}]}, "9 is not among the classes"),
    ],
)
def test_what_has_no_form_for_several_labels_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tutti.RandomForestClassifier(3, **params).fit(X, Y)


def test_one_class_is_predicted_always_as_in_scikit_learn(tmp_path: Path) -> None:
    y = np.full(len(X), 3)
    for more in ({}, {"strategy": tutti.AllReduce()}, {"bootstrap": "balanced"}, {"class_weight": "balanced"}):
        model = tutti.RandomForestClassifier(4, oob_score=True, **more).fit(X, y)
        theirs = Theirs(4).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
        np.testing.assert_array_equal(model.predict_proba(X), theirs.predict_proba(X))
        assert model.classes_.tolist() == [3]
    assert model.oob_score_ == 1.0
    model.save(tmp_path / "model")
    assert tutti.load(tmp_path / "model").predict(X[:2]).tolist() == [3, 3]
    with pytest.raises(InputError, match="at least 2 classes"):
        tutti.GradientBoostingClassifier().fit(X, y)  # as scikit-learn's GradientBoostingClassifier
