"""What a stranger reads who asks trees, kernel machines and searches for nonsense: one error, and a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.exceptions import NotFittedError

import tutti
from tutti.errors import TuttiError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = np.arange(40) % 2
Z = X[:, 0] * 2.0
MADE: dict[str, Callable[..., Any]] = {
    "forest": lambda **how: tutti.RandomForestClassifier(3, engine=tutti.Threads(1), **how),
    "forest of targets": lambda **how: tutti.RandomForestRegressor(3, engine=tutti.Threads(1), **how),
    "boosting": lambda **how: tutti.GradientBoostingClassifier(n_estimators=3, engine=tutti.Threads(1), **how),
    "boosting of targets": lambda **how: tutti.GradientBoostingRegressor(
        n_estimators=3, engine=tutti.Threads(1), **how
    ),
    "SVC": lambda **how: tutti.SVC(engine=tutti.Threads(1), **how),
    "SVR": lambda **how: tutti.SVR(engine=tutti.Threads(1), **how),
}
TREES = tuple(MADE)[:4]


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[3, 1] = value
    return x


def first_weight(value: float) -> np.ndarray:
    weight = np.ones(40)
    weight[0] = value
    return weight


Act = Callable[[Callable[..., Any], Any], object]
OF_ALL: dict[str, tuple[Act, str]] = {
    "one dimension": (lambda made, y: made().fit(X[:, 0], y), "Expected 2D array, got 1D array"),
    "three dimensions": (lambda made, y: made().fit(X[:, :, None], y), "Expected 2D array, got 3D array"),
    "lengths differ": (lambda made, y: made().fit(X, y[:10]), r"inconsistent numbers of samples: \[40, 10\]"),
    "infinity": (lambda made, y: made().fit(with_value(np.inf), y), "row 3, column 1: Input X contains infinity"),
    "infinity before anything starts": (
        lambda made, y: made().explain(np.asfortranarray(with_value(-np.inf)), y),
        "row 3, column 1: Input X contains infinity",
    ),
    "no row": (lambda made, y: made().fit(X[:0], y[:0]), r"Found array with 0 sample\(s\)"),
    "no column": (lambda made, y: made().fit(X[:, :0], y), r"Found array with 0 feature\(s\)"),
    "text": (lambda made, y: made().fit(np.full((40, 2), "a"), y), "row 0, column 0: text 'a' where a number was"),
    "text in a frame": (lambda made, y: made().fit(pd.DataFrame({"a": ["x"] * 40}), y), "row 0, column 'a': 'x' where"),
    "no y": (lambda made, y: made().fit(X), "requires y to be passed"),
    "NaN in y": (lambda made, y: made().fit(X, first_weight(np.nan)), "row 0: Input y contains NaN"),
    "infinite y": (lambda made, y: made().fit(X, first_weight(np.inf)), "row 0: Input y contains infinity"),
    "negative weight": (lambda made, y: made().fit(X, y, first_weight(-1.0)), r"row 0: sample_weight is -1\.0"),
    "NaN weight": (lambda made, y: made().fit(X, y, first_weight(np.nan)), "row 0: sample_weight is nan"),
    "zero weights": (lambda made, y: made().fit(X, y, np.zeros(40)), "sample_weight is zero for every row"),
    "weights of other rows": (lambda made, y: made().fit(X, y, np.ones(5)), r"\(5,\), expected \(40,\): one weight"),
    "features of a prediction": (lambda made, y: made().fit(X, y).predict(X[:, :2]), "X has 2 features, but .* 3"),
    "infinite prediction": (
        lambda made, y: made().fit(X, y).predict(with_value(np.inf)),
        "row 3, column 1: .*infinity",
    ),
    "one row to predict": (lambda made, y: made().fit(X, y).predict(X[0]), "Expected 2D array, got 1D array"),
    "not fitted": (lambda made, y: made().predict(X), "not fitted yet: call fit first"),
    "strategy by name": (lambda made, y: made(strategy="allreduce").fit(X, y), 'write "auto" or'),
    "strategy without ()": (lambda made, y: made(strategy=tutti.AllReduce).fit(X, y), 'write "auto" or'),
    "engine by name": (lambda made, y: made().set_params(engine="threads").fit(X, y), r"such as tutti\.Processes"),
    "no shards": (lambda made, y: made(n_shards=0).fit(X, y), "n_shards=0 is not possible: write a whole number"),
    "seed": (lambda made, y: made(random_state="x").fit(X, y), "random_state='x' is not possible"),
}
OF_TREES: dict[str, tuple[Act, str]] = {
    "no features": (lambda made, y: made(max_features=0).fit(X, y), "max_features=0 is not possible: write"),
    "too many features": (lambda made, y: made(max_features=9).fit(X, y), "max_features=9 is not possible"),
    "leaf of no row": (lambda made, y: made(min_samples_leaf=0).fit(X, y), "min_samples_leaf=0 is not possible"),
    "leaf of more rows than there are": (lambda made, y: made(min_samples_leaf=41).fit(X, y), "the data has 40 rows"),
    "trees as text": (
        lambda made, y: made().set_params(n_estimators="9").fit(X, y),
        "n_estimators='9' is not possible",
    ),
    "half a split": (lambda made, y: made(max_depth=2.5).fit(X, y), r"max_depth=2\.5 is not possible"),
    "fewer trees than there are": (
        lambda made, y: made(warm_start=True).fit(X, y).set_params(n_estimators=1).fit(X, y),
        "n_estimators=1 is not possible: .*warm_start=True",
    ),
    "a start of other columns": (
        lambda made, y: made(warm_start=True).fit(X, y).set_params(n_estimators=9).fit(X[:, :2], y),
        "set warm_start=False",
    ),
    "no such categories": (lambda made, y: made(categorical_features=[9]).fit(X, y), "X has no column 9: write"),
    "a mask too short": (lambda made, y: made(categorical_features=[True]).fit(X, y), "X has no column True: write"),
    "unknown category": (
        lambda made, y: made(categorical_features=[0]).fit(np.round(X), y).predict(np.round(X) + 99),
        r"row 0, column 0: category 99\.0 was not there .*; write NaN",
    ),
    "infinity among missing values": (
        lambda made, y: made().explain(np.where(X > 2.0, np.nan, with_value(np.inf)).astype(np.float32), y),
        r"row 3, column 1: Input X contains infinity .*float32",
    ),
    "infinite sparse value before anything starts": (
        lambda made, y: made().explain(sp.csr_array(with_value(np.inf)), y),
        "row 3, column 1: Input X contains infinity",
    ),
    "infinite sparse value": (
        lambda made, y: made().fit(sp.csr_array(with_value(np.inf)), y),
        "row 3, column 1: Input X contains infinity",
    ),
    "huge weights": (lambda made, y: made().fit(X, y, np.full(40, 1e300)), "divide the weights by their mean"),
    "tiny weights": (lambda made, y: made().fit(X, y, np.full(40, 1e-300)), "divide the weights by their mean"),
}


def one_error(act: Act, name: str, message: str) -> None:
    y = Z if name in ("forest of targets", "boosting of targets", "SVR") else Y
    with pytest.raises((TuttiError, ValueError), match=message) as caught:
        act(MADE[name], y)
    assert isinstance(caught.value, TuttiError)


@pytest.mark.parametrize("name", list(MADE))
@pytest.mark.parametrize("what", list(OF_ALL))
def test_a_wrong_call_gets_one_error_with_a_way_out(what: str, name: str) -> None:
    one_error(OF_ALL[what][0], name, OF_ALL[what][1])


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("what", list(OF_TREES))
def test_a_wrong_tree_gets_one_error_with_a_way_out(what: str, name: str) -> None:
    one_error(OF_TREES[what][0], name, OF_TREES[what][1])


def search(grid: Any, **how: Any) -> Any:
    return tutti.GridSearchCV(tutti.LinearSVC(), grid, engine=tutti.Threads(1), **how)


OTHERS: dict[str, tuple[Callable[[], object], str]] = {
    "unknown class": (lambda: MADE["forest"](class_weight={7: 1.0}).fit(X, Y), "7 is not among the classes 0, 1"),
    "word for weights": (lambda: MADE["forest"](class_weight="even").fit(X, Y), 'write None, "balanced" or a dict'),
    "negative class weight": (lambda: MADE["boosting"](class_weight={0: -1.0}).fit(X, Y), "class_weight=-1"),
    "fractions as labels": (lambda: MADE["forest"]().fit(X, Z), "continuous"),
    "one class": (lambda: MADE["boosting"]().fit(X, np.ones(40)), "at least 2 classes"),
    "bootstrap of arrays": (lambda: MADE["forest"](bootstrap=np.ones(2)).fit(X, Y), "write True, False"),
    "score as text": (lambda: MADE["forest"](oob_score="yes").fit(X, Y), "write True, False, or a function"),
    "two samples a row": (lambda: MADE["forest"](max_samples=2.0).fit(X, Y), "a share above 0 and up to"),
    "NaN for a kernel": (lambda: MADE["SVC"]().explain(with_value(np.nan), Y), "row 3, column 1: Input X contains NaN"),
    "infinity and several targets": (
        lambda: MADE["forest of targets"]().explain(with_value(np.inf), np.c_[Z, Z]),
        "row 3, column 1: Input X contains infinity",
    ),
    "several labels of other rows": (lambda: MADE["forest"]().fit(X, np.c_[Y, Y][:5]), r"\[40, 5\]"),
    "several labels with NaN": (lambda: MADE["forest"]().fit(X, np.c_[Y, Y * np.nan]), "Input y contains NaN"),
    "several sparse outputs": (lambda: MADE["forest of targets"]().fit(sp.csr_array(X), np.c_[Z, Z]), "toarray"),
    "signs of two columns": (lambda: MADE["boosting"](monotonic_cst=[1, 0]).fit(X, Y), "each of the 3 columns"),
    "one sign": (lambda: MADE["boosting"](monotonic_cst=1).fit(X, Y), "each of the 3 columns"),
    "signs as text": (lambda: MADE["boosting"](monotonic_cst="+").fit(X, Y), "each of the 3 columns"),
    "order of categories": (
        lambda: MADE["boosting"](monotonic_cst=[1, 0, 0], categorical_features=[0]).fit(np.round(X), Y),
        "column 0 is categorical and has no order",
    ),
    "no waiting time": (lambda: MADE["boosting of targets"](loss="gamma").fit(X, np.abs(Z) * (Z > 0)), "targets > 0"),
    "counts below zero": (lambda: MADE["boosting of targets"](loss="poisson").fit(X, Z), "targets >= 0"),
    "no grid": (lambda: search(None).fit(X, Y), "write {name: values}"),
    "empty grid": (lambda: search({}).fit(X, Y), "at least one value for every name"),
    "no candidate": (lambda: search({"C": []}).fit(X, Y), "at least one value for every name"),
    "unknown parameter": (lambda: search({"CC": [1.0]}).fit(X, Y), "LinearSVC has the parameters C"),
    "more folds than rows": (lambda: search({"C": [1.0]}, cv=50).fit(X, Y), "n_splits=50"),
    "more folds than rows of a class": (lambda: search({"C": [1.0]}, cv=21).fit(X, Y), "n_splits=21"),
    "one fold": (lambda: search({"C": [1.0]}, cv=1).fit(X, Y), "cv"),
    "halving that keeps all": (
        lambda: tutti.HalvingSearchCV(tutti.LinearSVC(), {"C": [1.0, 2.0]}, factor=1).fit(X, Y),
        "factor=1 is not possible: write a number above 1",
    ),
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_what_is_wrong_with_one_of_them_is_said(what: str) -> None:
    act, message = OTHERS[what]
    with pytest.raises((TuttiError, ValueError), match=message):
        act()


def test_a_search_that_is_not_fitted_says_so() -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        search({"C": [1.0]}).predict(X)


@pytest.mark.parametrize("name", list(MADE))
def test_one_row_a_constant_target_and_an_empty_column_are_no_mistakes(name: str) -> None:
    if name not in ("boosting", "SVC"):  # which need two classes
        assert MADE[name]().fit(X[:1], Y[:1]).predict(X[:2]).tolist() == [0, 0]
        assert MADE[name]().fit(X, np.ones(40)).predict(X[:2]) == pytest.approx([1, 1])
    if name in TREES:
        y = Z if "targets" in name else Y
        x = X.copy()
        x[:, 1] = np.nan
        assert np.isfinite(MADE[name]().fit(x, y).predict(x)).all()
