"""Boosted trees on whose paths only some columns meet: the rule of scikit-learn's ``interaction_cst``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

import tutti
from tutti.errors import InputError

RNG = np.random.default_rng(3)
X = RNG.standard_normal((3000, 5))
Z = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3] + X[:, 0] * X[:, 4] + 0.1 * RNG.standard_normal(3000)
THREE = np.digitize(Z, [-0.5, 0.5])
GROWTH: list[dict[str, Any]] = [
    {},
    {"grow": "leafwise", "max_leaf_nodes": 20, "max_depth": None},
    {"max_leaf_nodes": 11},
    {"max_features": 0.5, "subsample": 0.7},
    {"max_depth": 9, "min_samples_leaf": 5},
]


def paths(model: Any) -> Iterator[set[int]]:
    """Yield the columns on the way to each leaf."""
    m = model.model_
    for first in m["offset"][:-1].tolist():
        stack: list[tuple[int, set[int]]] = [(0, set())]
        while stack:
            node, seen = stack.pop()
            j = int(m["feature"][first + node])
            if j < 0:
                yield seen
                continue
            left = int(m["left"][first + node])
            stack += [(left, seen | {j}), (left + 1, seen | {j})]


def fitted(**how: Any) -> Any:
    return tutti.GradientBoostingRegressor(n_estimators=25, engine=tutti.Threads(2), **how).fit(X, Z)


@pytest.mark.parametrize("how", GROWTH)
@pytest.mark.parametrize(
    ("cst", "groups"),
    [
        ("no_interactions", [{j} for j in range(5)]),
        ("pairwise", [set(p) for p in combinations(range(5), 2)]),
        ([[0, 1], (2, 3)], [{0, 1}, {2, 3}, {4}]),
        ([{0, 1, 2}, {2, 3}, [0, 4]], [{0, 1, 2}, {2, 3}, {0, 4}]),
        ([[1]], [{1}, {0, 2, 3, 4}]),
    ],
)
def test_columns_meet_only_in_their_groups(how: dict[str, Any], cst: Any, groups: list[set[int]]) -> None:
    found = {frozenset(p) for p in paths(fitted(interaction_cst=cst, **how))}
    assert all(any(p <= g for g in groups) for p in found)
    assert len(frozenset().union(*found)) >= 4
    if cst != "no_interactions":
        assert max(map(len, found)) == (2 if cst == "pairwise" or len(cst) == 2 else 3) or cst == [[1]]
    free = {frozenset(p) for p in paths(fitted(**how))}
    assert not all(any(p <= g for g in groups) for p in free)


def test_pairs_as_a_word_and_as_groups_and_one_group_of_all_are_the_same() -> None:
    for how in ({}, {"max_features": 0.5}):
        pairs = list(combinations(range(5), 2))
        assert (
            fitted(interaction_cst="pairwise", **how).report_.sha256
            == fitted(interaction_cst=pairs, **how).report_.sha256
        )
        free = fitted(**how).report_.sha256
        assert fitted(interaction_cst=[range(5)], **how).report_.sha256 == free
        assert fitted(interaction_cst=[], **how).report_.sha256 == free
    one = tutti.GradientBoostingRegressor(n_estimators=5, interaction_cst="pairwise").fit(X[:, :1], Z)
    assert one.n_iter_ == 5


@pytest.mark.parametrize("how", [*GROWTH[:2], {"max_features": 0.6, "categorical_features": [4]}])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_same_bits_for_any_number_of_workers(how: dict[str, Any], loss: str) -> None:
    made, y = (
        (tutti.GradientBoostingRegressor, Z) if loss == "squared_error" else (tutti.GradientBoostingClassifier, THREE)
    )
    x = X.copy()
    x[:, 4] = np.round(x[:, 4])
    x[RNG.random(x.shape) < 0.05] = np.nan

    def sha(engine: Any) -> str:
        signs = None if y is THREE else [1, 0, 0, 0, 0]
        model = made(n_estimators=6, interaction_cst=[[0, 1, 4], [2, 3]], monotonic_cst=signs, engine=engine, **how)
        found: str = model.fit(x, y).report_.sha256
        return found

    right = sha(tutti.Threads(1))
    for n in (2, 3, 5, 8):
        assert sha(tutti.Threads(n)) == right
    assert sha(tutti.Processes(2)) == right


@pytest.mark.thorough
@pytest.mark.parametrize("cst", ["no_interactions", "pairwise", [[0, 1], [2, 3]]])
def test_as_accurate_as_scikit_learns(cst: Any) -> None:
    how: dict[str, Any] = {"max_leaf_nodes": 31, "interaction_cst": cst, "min_samples_leaf": 20, "max_depth": None}
    ours = tutti.GradientBoostingRegressor(n_estimators=100, grow="leafwise", l2_regularization=0.0, **how)
    theirs = HistGradientBoostingRegressor(max_iter=100, early_stopping=False, **how)
    y = Z + 2 * X[:, 0] + np.sin(3 * X[:, 1])
    a, b = (model.fit(X[:2000], y[:2000]).score(X[2000:], y[2000:]) for model in (ours, theirs))
    assert a >= b - 0.03


def test_names_files_warm_starts_and_xgboosts_json(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcde"))
    made = tutti.GradientBoostingRegressor(n_estimators=8, interaction_cst=[["a", "b"], ["c", 3]])
    model = made.fit(frame, Z)
    plain = tutti.GradientBoostingRegressor(n_estimators=8, interaction_cst=[(0, 1), (2, 3)]).fit(X, Z)
    assert model.report_.sha256 == plain.report_.sha256
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    assert [list(g) for g in again.interaction_cst] == [["a", "b"], ["c", 3]]
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    longer = again.set_params(warm_start=True, n_estimators=16).fit(frame, Z)
    whole = tutti.GradientBoostingRegressor(n_estimators=16, interaction_cst=[(0, 1), (2, 3)]).fit(X, Z)
    np.testing.assert_array_equal(longer.predict(frame), whole.predict(X))
    trees = json.loads(plain.to_xgboost_json())["learner"]["gradient_booster"]["model"]["trees"]
    assert len(trees) == 8  # a model file of XGBoost has trees, and no rule by which they were grown


def test_sets_ranges_and_arrays_of_columns_are_stored_as_lists(tmp_path: Path) -> None:
    how: dict[str, Any] = {"interaction_cst": [{1, 0}, range(2, 4)], "monotonic_cst": np.array([1, 0, 0, 0, -1])}
    model = tutti.GradientBoostingRegressor(n_estimators=4, **how).fit(X, Z)
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    assert (again.interaction_cst, again.monotonic_cst) == ([[0, 1], [2, 3]], [1, 0, 0, 0, -1])
    assert again.fit(X, Z).report_.sha256 == model.report_.sha256


@pytest.mark.parametrize(
    ("cst", "message"),
    [
        ("pairs", "no_interactions"),
        (3, "must be a sequence of tuples or lists"),
        ([0, 1], "must be a sequence of tuples or lists"),
        (["ab"], "must be a sequence of tuples or lists"),
        ([[0, 5]], "5 is not the number of a column, 0 to 4"),
        ([[0, -1]], "-1 is not the number of a column"),
        ([[0, 1.5]], "1.5 is not the number of a column"),
        ([[True]], "True is not the number of a column"),
        ([["z"]], "'z' is not the name of a column"),
    ],
)
def test_wrong_groups_are_refused_before_anything_starts(cst: Any, message: str) -> None:
    model = tutti.GradientBoostingClassifier(n_estimators=2, interaction_cst=cst)
    with pytest.raises(InputError, match=message):
        model.explain(X, THREE)
    with pytest.raises(InputError, match=message):
        model.fit(X, THREE)
