"""A balanced bootstrap: as many rows of each class, the same ones for any number of workers and either layout."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

import tutti
from tutti.errors import InputError
from tutti.learners._forest_draw import times_of
from tutti.learners.forest import ForestLearner
from tutti.strategies.task_parallel import TaskParallel

RNG = np.random.default_rng(11)
N = 6_000
X = RNG.standard_normal((N, 5))
X[RNG.random(X.shape) < 0.03] = np.nan
Z = np.nansum(X[:, :2], axis=1) + 0.5 * RNG.standard_normal(N)
TWO, THREE = (Z > 2.6).astype(int), np.digitize(Z, [-2.0, 2.2])
WEIGHT = RNG.random(N) + 0.5


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_class_is_drawn_from_as_often_as_the_rarest_has_rows(share: float) -> None:
    sizes = np.bincount(THREE)
    learner = ForestLearner(balanced=True, rate=share)
    cuts = [0, 100, 100, 4_000, N]  # one shard is empty
    counts = np.array([np.bincount(THREE[a:b], minlength=3) for a, b in pairwise(cuts)])
    shared = {"class_sizes": sizes, "class_starts": np.cumsum(counts, axis=0) - counts}
    key, label = np.uint64(77), THREE.astype(np.int32)
    drawn = times_of(learner, shared, key, label, 0)
    assert np.bincount(THREE, weights=drawn).tolist() == [round(share * sizes.min())] * 3
    parts = [times_of(learner, shared, key, label[a:b], a) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), drawn)
    frequent, rarest = (np.equal(THREE, k) for k in (sizes.argmax(), sizes.argmin()))
    common = drawn[frequent]
    assert common[common > 0].mean() < 1.5  # rows of a frequent class hardly ever twice
    assert drawn[rarest].max() > 1  # with replacement


def digest(engine: Any, strategy: Any, y: Any, weight: Any = None, **params: Any) -> tuple[str, float]:
    model = tutti.RandomForestClassifier(
        6, bootstrap="balanced", oob_score=True, random_state=2, engine=engine, strategy=strategy, **params
    )
    model.fit(X, y, weight)
    return model.report_.sha256, model.oob_score_


def test_same_bits_on_threads_processes_and_rows_that_stay() -> None:
    right = digest(tutti.Threads(1), "auto", THREE, WEIGHT)
    assert digest(tutti.Threads(3), "auto", THREE, WEIGHT) == right
    assert digest(tutti.Processes(2), TaskParallel("random"), THREE, WEIGHT) == right
    assert digest(tutti.Threads(3), tutti.AllReduce(), THREE, WEIGHT) == right
    assert digest(tutti.Threads(2), "auto", THREE, WEIGHT, n_shards=3) == right


@pytest.mark.parametrize(
    ("y", "params"),
    [
        pytest.param(THREE, {"max_depth": 4, "class_weight": "balanced_subsample"}, marks=pytest.mark.thorough),
        pytest.param(TWO, {"max_samples": 0.5}, marks=pytest.mark.thorough),
        pytest.param(THREE, {}, marks=pytest.mark.slow),
    ],
)
def test_same_bits_for_any_number_of_workers(y: Any, params: dict[str, Any]) -> None:
    right = digest(tutti.Threads(1), "auto", y, **params)
    for n in (2, 3, 5, 8):
        assert digest(tutti.Threads(n), "auto", y, **params) == right
    for n in (1, 2, 3, 5, 8):
        assert digest(tutti.Threads(n), tutti.AllReduce(), y, **params) == right
        assert digest(tutti.Processes(n), "auto", y, **params) == right
    assert digest(tutti.Processes(2, transport="tcp"), tutti.AllReduce(), y, **params) == right


def test_the_rare_class_is_found() -> None:
    plain = tutti.RandomForestClassifier(40, oob_score=True).fit(X, TWO)
    balanced = tutti.RandomForestClassifier(40, bootstrap="balanced", oob_score=True).fit(X, TWO)
    rng = np.random.default_rng(12)
    x = rng.standard_normal((4_000, 5))
    y = (x[:, :2].sum(axis=1) + 0.5 * rng.standard_normal(4_000) > 2.6).astype(int)
    found = {name: balanced_accuracy_score(y, m.predict(x)) for name, m in (("p", plain), ("b", balanced))}
    assert found["b"] > found["p"] + 0.1
    assert np.isfinite(balanced.oob_decision_function_).all()
    assert (balanced.trees_.n_rows[balanced.trees_.offset[:-1]] <= 2 * TWO.sum()).all()


def test_a_class_of_one_row_is_in_every_tree() -> None:
    y = np.zeros(50, int)
    y[17] = 1
    model = tutti.RandomForestClassifier(30, bootstrap="balanced").fit(X[:50], y)
    assert (model.trees_.n_rows[model.trees_.offset[:-1]] == 2).all()
    assert model.predict(X[17:18]).tolist() == [1]


def test_a_warm_start_adds_the_trees_that_a_larger_forest_has() -> None:
    model = tutti.RandomForestClassifier(3, bootstrap="balanced", warm_start=True).fit(X, TWO)
    model.set_params(n_estimators=7).fit(X, TWO)
    whole = tutti.RandomForestClassifier(7, bootstrap="balanced").fit(X, TWO)
    np.testing.assert_array_equal(model.predict_proba(X), whole.predict_proba(X))


def test_wrong_ways_to_ask_say_what_to_write() -> None:
    with pytest.raises(InputError, match='True, False, or "balanced"'):
        tutti.RandomForestClassifier(bootstrap="balance").fit(X, TWO)
    with pytest.raises(InputError, match="no classes to balance"):
        tutti.RandomForestRegressor(bootstrap="balanced").fit(X, Z)
    with pytest.raises(InputError, match=f"1 to {2 * TWO.sum()}, as many rows of each class as the rarest has"):
        tutti.RandomForestClassifier(bootstrap="balanced", max_samples=N).fit(X, TWO)
