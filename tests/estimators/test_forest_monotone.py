"""Forests whose predictions rise or fall along a column: in every row, by scikit-learn's rule, for any workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

import tutti
from tutti.errors import InputError
from tutti.strategies.task_parallel import TaskParallel
from tutti.types import Array

SIGNS = [1, 0, -1, 0]
RNG = np.random.default_rng(11)
X = RNG.integers(0, 40, (1200, 4)).astype(np.float32)
Z = X[:, 0] / 10 + np.sin(X[:, 1] / 4) - X[:, 2] / 15 + RNG.standard_normal(1200)
Y = np.where(Z > 0.3, "yes", "no")
HOLES = X.copy()
HOLES[RNG.random(X.shape) < 0.08] = np.nan
KINDS: dict[str, tuple[Any, Any, Array]] = {
    "classifier": (tutti.RandomForestClassifier, RandomForestClassifier, Y),
    "regressor": (tutti.RandomForestRegressor, RandomForestRegressor, Z),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def steps(model: Any, column: int, x: Array = X) -> Array:
    """Return the changes of a prediction along one column, of rows that are alike in all others."""
    grid = np.arange(-2.0, 43.0)
    rows = np.repeat(x[:80], len(grid), axis=0)
    rows[:, column] = np.tile(grid, 80)
    value = model.predict_proba(rows)[:, 1] if hasattr(model, "classes_") else model.predict(rows)
    return np.diff(value.reshape(80, -1), axis=1)


@kinds
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"max_leaf_nodes": 25},
        {"max_depth": 5, "ccp_alpha": 0.002, "min_samples_leaf": 3},
        {"bootstrap": False, "max_features": 2, "min_weight_fraction_leaf": 0.01},
    ],
)
@pytest.mark.parametrize("x", [X, HOLES], ids=["whole", "holes"])
def test_predictions_rise_and_fall_as_they_must(kind: str, how: dict[str, Any], x: Array) -> None:
    made, _, y = KINDS[kind]
    model = made(12, monotonic_cst=SIGNS, random_state=1, **how).fit(x, y)
    assert steps(model, 0, x).min() >= 0.0
    assert steps(model, 2, x).max() <= 0.0
    assert steps(model, 0, x).max() > 0.0 > steps(model, 2, x).min()
    assert steps(model, 1, x).min() < 0.0 < steps(model, 1, x).max()  # nothing was said of this one
    assert steps(made(12, random_state=1, **how).fit(x, y), 0, x).min() < 0.0


@kinds
@pytest.mark.parametrize("how", [{"max_depth": 6}, {"max_leaf_nodes": 30}, {"min_impurity_decrease": 0.002}])
def test_a_tree_on_all_rows_is_scikit_learns(kind: str, how: dict[str, Any]) -> None:
    ours, theirs, y = KINDS[kind]
    how = {**how, "bootstrap": False, "max_features": None, "monotonic_cst": SIGNS, "min_samples_leaf": 12}
    one, other = ours(1, **how).fit(X, y), theirs(1, random_state=0, **how).fit(X, y)
    a, b = one.estimators_[0].tree_, other.estimators_[0].tree_
    if "max_leaf_nodes" in how:  # whose nodes are numbered as they came
        assert sorted(a.threshold) == pytest.approx(sorted(b.threshold))
    else:
        np.testing.assert_array_equal(a.feature, b.feature)
        np.testing.assert_allclose(a.threshold, b.threshold)
        np.testing.assert_allclose(a.value, b.value, atol=1e-9)
    ask = "predict_proba" if kind == "classifier" else "predict"
    np.testing.assert_allclose(getattr(one, ask)(X), getattr(other, ask)(X), atol=1e-9)


@kinds
def test_same_bits_for_any_number_of_workers_in_both_layouts(kind: str) -> None:
    made, _, _ = KINDS[kind]
    rng = np.random.default_rng(2)
    x = rng.standard_normal((14_000, 4))  # enough for nodes that are split on summed histograms
    x[rng.random(x.shape) < 0.05] = np.nan
    x[:, 3] = rng.integers(0, 6, len(x))
    z = np.nan_to_num(x[:, 0] - x[:, 2]) + x[:, 3] % 3 + rng.standard_normal(len(x))
    y = z if kind == "regressor" else z > 1

    def sha(engine: Any, strategy: Any) -> str:
        how = {"monotonic_cst": SIGNS, "categorical_features": [3], "max_depth": 7}
        found: str = made(3, engine=engine, strategy=strategy, **how).fit(x, y).report_.sha256
        return found

    right = sha(tutti.Threads(1), "auto")
    for n in (2, 3, 5, 8):
        assert sha(tutti.Threads(n), TaskParallel("random")) == right
    for n in (1, 2, 3, 5, 8):
        assert sha(tutti.Threads(n), tutti.AllReduce()) == right
    assert sha(tutti.Processes(2), "auto") == sha(tutti.Processes(2), tutti.AllReduce()) == right


@pytest.mark.thorough
@kinds
def test_as_accurate_as_scikit_learns(kind: str) -> None:
    ours, theirs, _ = KINDS[kind]
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6000, 6))
    z = x[:, 0] - x[:, 2] + np.sin(2 * x[:, 1]) + 0.5 * rng.standard_normal(6000)
    y = z if kind == "regressor" else z > 0
    how: dict[str, Any] = {"monotonic_cst": [1, 0, -1, 0, 0, 0], "min_samples_leaf": 2, "random_state": 0}
    a, b = (made(60, **how).fit(x[:4000], y[:4000]).score(x[4000:], y[4000:]) for made in (ours, theirs))
    assert a >= b - 0.015


@kinds
def test_names_pick_columns_and_the_export_and_the_file_keep_signs(kind: str, tmp_path: Path) -> None:
    made, _, y = KINDS[kind]
    frame = pd.DataFrame(X, columns=["age", "b", "price", "d"])
    model = made(5, monotonic_cst={"age": 1, "price": -1}).fit(frame, y)
    assert model.report_.sha256 == made(5, monotonic_cst=SIGNS).fit(X, y).report_.sha256
    assert model.report_.sha256 != made(5).fit(X, y).report_.sha256
    theirs = model.to_sklearn()
    assert theirs.monotonic_cst.tolist() == SIGNS
    np.testing.assert_array_equal(theirs.predict(frame), model.predict(frame))
    holes = made(5, monotonic_cst=SIGNS).fit(HOLES, y)
    np.testing.assert_array_equal(holes.to_sklearn().predict(HOLES), holes.predict(HOLES))
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    assert again.monotonic_cst == {"age": 1, "price": -1}
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))


@kinds
def test_a_warm_start_adds_trees_that_rise_as_well(kind: str) -> None:
    made, _, y = KINDS[kind]
    model = made(3, monotonic_cst=np.array(SIGNS), warm_start=True).fit(X, y).set_params(n_estimators=8).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), made(8, monotonic_cst=SIGNS).fit(X, y).predict(X))


def test_votes_of_rows_that_were_not_drawn_and_weights_take_part() -> None:
    weight = RNG.random(len(X)) + 0.2
    model = tutti.RandomForestClassifier(
        30, monotonic_cst=SIGNS, oob_score=True, class_weight={"yes": 3.0}, criterion="entropy", bootstrap="balanced"
    ).fit(X, Y, weight)
    assert 0.6 < model.oob_score_ < 0.95
    assert steps(model, 0).min() >= 0.0


def test_zeros_and_one_class_bind_nothing() -> None:
    free = tutti.RandomForestClassifier(4).fit(X, Y).report_.sha256
    assert tutti.RandomForestClassifier(4, monotonic_cst=[0, 0, 0, 0]).fit(X, Y).report_.sha256 == free
    ones = np.ones(len(X))
    assert (tutti.RandomForestClassifier(4, monotonic_cst=SIGNS).fit(X, ones).predict(X) == 1).all()
    three = np.digitize(Z, [0, 1])
    assert tutti.RandomForestClassifier(2, monotonic_cst=np.zeros(4)).fit(X, three).n_classes_ == 3


@pytest.mark.parametrize(
    ("signs", "y", "more", "message"),
    [
        ([1, 0], Y, {}, "each of the 4 columns"),
        (1, Y, {}, "each of the 4 columns"),
        ("rise", Y, {}, "each of the 4 columns"),
        ([1, 0, 0, 2], Y, {}, "-1, 0 or 1"),
        ([1, 0, 0, np.nan], Y, {}, "-1, 0 or 1"),
        ([[1], [0], [0], [0]], Y, {}, "-1, 0 or 1"),
        ({"age": 1}, Y, {}, "'age' is not the name of a column"),
        ({7: 1}, Y, {}, "7 is not the number of a column, 0 to 3"),
        (SIGNS, np.digitize(Z, [0, 1]), {}, "not supported with multiclass classification"),
        (SIGNS, np.c_[Y, Y], {}, "not supported with multiple outputs"),
        (SIGNS, Y, {"categorical_features": [2]}, "column 2 is categorical and has no order"),
    ],
)
def test_what_cannot_be_monotone_is_refused_before_anything_starts(
    signs: Any, y: Array, more: dict[str, Any], message: str
) -> None:
    model = tutti.RandomForestClassifier(3, monotonic_cst=signs, **more)
    with pytest.raises(InputError, match=message):
        model.explain(X, y)
    with pytest.raises(InputError, match=message):
        model.fit(X, y)


def test_several_targets_have_no_order() -> None:
    with pytest.raises(InputError, match="not supported with multiple outputs"):
        tutti.RandomForestRegressor(3, monotonic_cst=SIGNS).fit(X, np.c_[Z, Z])
