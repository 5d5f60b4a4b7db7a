"""Forests: scikit-learn's grammar and accuracy, missing values, categories, weights, storage, bad input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from sklearn.ensemble import RandomForestClassifier as TheirClassifier
from sklearn.ensemble import RandomForestRegressor as TheirRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

import tutti
from tutti.errors import InputError, ModelError
from tutti.estimators._base import NotFittedError

X, Y = load_breast_cancer(return_X_y=True)
XD, YD = load_diabetes(return_X_y=True)
_DRAWN = "rows are drawn for trees: a row of weight k and k rows are not drawn alike (as in scikit-learn's forests)"
_EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": _DRAWN,
    "check_sample_weight_equivalence_on_sparse_data": _DRAWN,
}

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    CHECKS = parametrize_with_checks(
        [tutti.RandomForestClassifier(10), tutti.RandomForestRegressor(10)],
        expected_failed_checks=lambda estimator: _EXPECTED,
    )


@pytest.mark.thorough
@CHECKS
def test_scikit_learns_check(estimator: Any, check: Any) -> None:
    check(estimator)


def data_sets() -> dict[str, tuple[Any, Any]]:
    return {
        "cancer": (X, Y),
        "digits": load_digits(return_X_y=True),
        "iris": load_iris(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "diabetes": (XD, YD),
        "friedman": make_friedman1(2000, noise=1.0, random_state=0),
    }


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(data_sets()))
@pytest.mark.parametrize("max_depth", [4, None])
def test_as_accurate_as_scikit_learns(name: str, max_depth: int | None) -> None:
    x, y = data_sets()[name]
    regression = name in ("diabetes", "friedman")
    ours_made = tutti.RandomForestRegressor if regression else tutti.RandomForestClassifier
    theirs_made = TheirRegressor if regression else TheirClassifier
    ours, theirs = [], []
    for seed in range(3):
        a, b, c, d = train_test_split(x, y, random_state=seed)
        ours.append(ours_made(60, max_depth=max_depth, random_state=seed).fit(a, c).score(b, d))
        theirs.append(theirs_made(60, max_depth=max_depth, random_state=seed, n_jobs=1).fit(a, c).score(b, d))
    assert np.mean(ours) >= np.mean(theirs) - 0.02  # a few hundred rows: one of them is a point or two


def test_sklearns_forest_of_our_trees_predicts_the_same() -> None:
    x = X.astype(np.float32)
    x[::9, 3] = np.nan
    model = tutti.RandomForestClassifier(15).fit(x, Y)
    theirs = model.to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(x), model.predict_proba(x), atol=1e-12)
    np.testing.assert_array_equal(theirs.apply(x), model.apply(x))
    np.testing.assert_allclose(theirs.feature_importances_, model.feature_importances_, atol=1e-9)
    path, start = model.decision_path(x[:20])
    theirs_path, theirs_start = theirs.decision_path(x[:20])
    np.testing.assert_array_equal(start, theirs_start)
    assert (path != theirs_path).nnz == 0
    x = XD.astype(np.float32)  # scikit-learn's trees see no more of a number
    regression = tutti.RandomForestRegressor(5).fit(x, np.column_stack([YD, YD**2]))
    np.testing.assert_allclose(regression.to_sklearn().predict(x), regression.predict(x), rtol=1e-6)


def test_trees_one_by_one_make_up_the_forest() -> None:
    model = tutti.RandomForestClassifier(7, max_depth=3).fit(X, Y)
    assert len(model.estimators_) == 7
    mean = np.mean([t.predict_proba(X) for t in model.estimators_], axis=0)
    np.testing.assert_allclose(mean, model.predict_proba(X), atol=1e-12)
    assert max(t.get_depth() for t in model.estimators_) == 3
    assert all(t.get_n_leaves() <= 8 for t in model.estimators_)


@pytest.mark.thorough
@pytest.mark.parametrize("made", [tutti.RandomForestClassifier, tutti.RandomForestRegressor])
def test_out_of_bag_scores_are_honest(made: Callable[..., Any]) -> None:
    x, y = (X, Y) if made is tutti.RandomForestClassifier else (XD, YD)
    theirs = {tutti.RandomForestClassifier: TheirClassifier, tutti.RandomForestRegressor: TheirRegressor}[made]
    ours = made(100, oob_score=True).fit(x, y)
    assert ours.oob_score_ == pytest.approx(theirs(100, oob_score=True, random_state=0).fit(x, y).oob_score_, abs=0.04)
    assert ours.oob_score_ < ours.score(x, y)


def test_warm_start_adds_the_trees_that_a_larger_forest_has() -> None:
    model = tutti.RandomForestClassifier(5, warm_start=True).fit(X, Y)
    model.set_params(n_estimators=12).fit(X, Y)
    whole = tutti.RandomForestClassifier(12).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), whole.predict_proba(X))
    with pytest.warns(UserWarning, match="does not fit new trees"):
        model.fit(X, Y)
    with pytest.raises(InputError, match="at least 12"):
        model.set_params(n_estimators=3).fit(X, Y)


def test_missing_values_say_something() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 3))
    y = rng.integers(0, 2, 1500)
    x[(y == 1) & (rng.random(1500) < 0.9), 1] = np.nan
    model = tutti.RandomForestClassifier(20, max_depth=3).fit(x, y)
    assert model.score(x, y) > 0.9


@pytest.mark.parametrize("module", [pd, pl], ids=["pandas", "polars"])
def test_categories_of_a_frame_are_split_as_such(module: Any) -> None:
    rng = np.random.default_rng(1)
    names = np.array(["ash", "beech", "elm", "fir", "oak", "pine", "yew"])
    which = rng.integers(0, 7, 900)
    y = np.isin(which, [1, 4, 6]).astype(int)
    if module is pd:
        frame = module.DataFrame({"noise": rng.standard_normal(900), "tree": module.Categorical(names[which])})
        other = frame.assign(tree="palm")
    else:
        frame = module.DataFrame({"noise": rng.standard_normal(900), "tree": names[which].tolist()})
        frame = frame.with_columns(module.col("tree").cast(module.Categorical))
        other = frame.with_columns(module.lit("palm").alias("tree"))
    model = tutti.RandomForestClassifier(10, max_depth=1, max_features=None).fit(frame, y)
    assert model.score(frame, y) == 1.0
    with pytest.raises(InputError, match="palm"):
        model.predict(other)


def test_columns_of_numbers_may_be_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.standard_normal(800), rng.integers(0, 30, 800) * 10.0])
    y = np.sin(x[:, 1] * 7.0)
    model = tutti.RandomForestRegressor(10, max_depth=3, categorical_features=[1]).fit(x, y)
    plain = tutti.RandomForestRegressor(10, max_depth=3).fit(x, y)
    assert model.score(x, y) > plain.score(x, y) + 0.1
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    x[5, 1] = 7.0
    with pytest.raises(InputError, match="category 7") as caught:
        again.predict(x)
    assert caught.value.row == 5  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="no categories"):
        model.to_sklearn()


def test_class_weights_count() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2000, 4))
    y = (x[:, 0] + rng.standard_normal(2000) > 1.8).astype(int)
    found = {}
    for weight in (None, "balanced", "balanced_subsample", {0: 1.0, 1: 5.0}):
        found[str(weight)] = (
            tutti.RandomForestClassifier(20, max_depth=4, class_weight=weight).fit(x, y).predict(x).sum()
        )
    assert min(found["balanced"], found["balanced_subsample"], found["{0: 1.0, 1: 5.0}"]) > 1.5 * found["None"]


def test_a_model_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    model = tutti.RandomForestClassifier(6, strategy=tutti.TaskParallel("static")).fit(X, Y)
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.feature_importances_, model.feature_importances_)
    assert again.report_.sha256 == model.report_.sha256


def test_datasets_and_sparse_rows_give_the_same_forest(tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x, y = load_digits(return_X_y=True)
    a = tutti.RandomForestClassifier(5).fit(x, y)
    b = tutti.RandomForestClassifier(5).fit(sparse.csr_matrix(x), y)
    assert a.report_.sha256 == b.report_.sha256
    np.testing.assert_array_equal(a.predict(x), b.predict(sparse.csr_matrix(x)))
    np.savetxt(
        tmp_path / "d.csv",
        np.column_stack([x, y]),
        delimiter=",",
        header=",".join([*map(str, range(64)), "y"]),
        comments="",
    )
    c = tutti.RandomForestClassifier(5).fit(str(tmp_path / "d.csv"), "y")
    assert c.report_.sha256 == a.report_.sha256
    data = tutti.read_csv(str(tmp_path / "d.csv"), label="y")
    assert c.score(data) == a.score(x, y)


def test_permutation_importance_and_clone_work() -> None:
    model = clone(tutti.RandomForestClassifier(10, max_depth=4)).fit(X, Y)
    found = permutation_importance(model, X[:200], Y[:200], n_repeats=2, random_state=0)
    assert found.importances_mean.shape == (30,)


def test_the_plan_tells_stages_before_anything_runs() -> None:
    text = str(tutti.RandomForestClassifier(30, engine=tutti.Threads(2)).explain(X, Y))
    assert "30 tasks" in text
    assert "trees" in text


WRONG = {
    "min_samples_leaf": (tutti.RandomForestClassifier(min_samples_leaf=570), "no leaf could hold"),
    "max_features": (tutti.RandomForestClassifier(max_features=31), "1 to 30"),
    "max_features name": (tutti.RandomForestClassifier(max_features="auto"), "sqrt"),
    "n_estimators": (tutti.RandomForestClassifier(0), "n_estimators"),
    "criterion": (tutti.RandomForestRegressor(criterion="absolute_error"), "squared_error"),
    "criterion of a classifier": (tutti.RandomForestClassifier(criterion="mse"), "gini"),
    "max_depth": (tutti.RandomForestClassifier(max_depth=0), "max_depth"),
    "min_samples_split": (tutti.RandomForestClassifier(min_samples_split=1), "min_samples_split"),
    "min_weight": (tutti.RandomForestClassifier(min_weight_fraction_leaf=0.6), "0 to 0.5"),
    "oob": (tutti.RandomForestClassifier(bootstrap=False, oob_score=True), "bootstrap=True"),
    "max_samples": (tutti.RandomForestClassifier(max_samples=1000), "569"),
    "class_weight": (tutti.RandomForestClassifier(class_weight={7: 1.0}), "not among the classes"),
    "ccp_alpha": (tutti.RandomForestClassifier(ccp_alpha=-1.0), "ccp_alpha"),
    "strategy": (tutti.RandomForestClassifier(strategy="threads"), "TaskParallel"),
    "dual strategy": (tutti.RandomForestClassifier(strategy=tutti.CoCoA()), "CoCoA|dual"),
    "leaves of spread rows": (
        tutti.RandomForestClassifier(max_leaf_nodes=9, strategy=tutti.AllReduce()),
        "max_leaf_nodes",
    ),
    "categorical": (tutti.RandomForestClassifier(categorical_features=[40]), "no column 40"),
    "categories": (tutti.RandomForestClassifier(categorical_features=[0]), "255 categories"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_bad_parameters_get_one_clear_error(name: str) -> None:
    model, message = WRONG[name]
    with pytest.raises(Exception, match=message) as caught:
        model.fit(X, Y)
    assert not isinstance(caught.value, AssertionError | IndexError | KeyError | AttributeError)


def test_bad_rows_get_one_clear_error() -> None:
    model = tutti.RandomForestClassifier(5)
    bad = X.copy()
    bad[7, 2] = np.inf
    with pytest.raises(Exception, match="infinity"):
        model.fit(bad, Y)
    model.fit(X, Y)
    with pytest.raises(InputError, match="infinity"):
        model.predict(bad)
    with pytest.raises(InputError, match="29 features"):
        model.predict(X[:, :29])
    with pytest.raises(NotFittedError, match="not fitted"):
        tutti.RandomForestClassifier().predict(X)
