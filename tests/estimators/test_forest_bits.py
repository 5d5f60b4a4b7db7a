"""One forest for any number of workers, on threads and processes, also when one of them is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tutti.data import from_arrays
from tutti.learners.forest import ForestLearner
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import train
from tutti.strategies.task_parallel import TaskParallel
from tutti.tasking import Rows
from tutti.types import Array, Arrays

RNG = np.random.default_rng(5)
X = RNG.standard_normal((1003, 6))
X[RNG.random(X.shape) < 0.05] = np.nan
Y = np.digitize(np.nansum(X[:, :3], axis=1), [-0.5, 0.7])
WEIGHT = RNG.random(1003) + 0.5


def digest(engine: Any, kind: str, **params: Any) -> str:
    made = tutti.RandomForestRegressor if kind == "regression" else tutti.RandomForestClassifier
    y = {"two": (Y > 0).astype(int), "three": Y, "regression": np.nan_to_num(X[:, 0]) * 3.0}[kind]
    model = made(12, engine=engine, random_state=3, **params).fit(X, y, WEIGHT if kind == "three" else None)
    sha: str = model.report_.sha256
    return sha


def diagonal(*params: dict[str, Any]) -> list[Any]:
    """Return each kind with parameters of its own; with those of the others it is slow."""
    kinds = ("two", "three", "regression")
    return [
        pytest.param(kind, chosen, marks=pytest.mark.thorough if i == j else pytest.mark.slow)
        for i, kind in enumerate(kinds)
        for j, chosen in enumerate(params)
    ]


@pytest.mark.parametrize("kind", ["two", "three", "regression"])
def test_same_bits_for_one_and_three_threads_and_two_processes(kind: str) -> None:
    one = digest(tutti.Threads(1), kind, oob_score=True)
    assert digest(tutti.Threads(3), kind, oob_score=True) == one
    assert digest(tutti.Processes(2), kind) == one


@pytest.mark.parametrize(("kind", "params"), diagonal({}, {"max_leaf_nodes": 20}, {"max_depth": 4, "ccp_alpha": 0.001}))
def test_same_bits_for_any_number_of_workers(kind: str, params: dict[str, Any]) -> None:
    one = digest(tutti.Threads(1), kind, **params)
    for n in (2, 3, 5, 8):
        assert digest(tutti.Threads(n), kind, **params) == one
    for n in (1, 2, 3, 5, 8):
        assert digest(tutti.Processes(n), kind, **params) == one


@pytest.mark.thorough
@pytest.mark.parametrize("assign", ["balanced", "round_robin", "random", "static"])
def test_same_bits_however_trees_are_dealt(assign: Any) -> None:
    right = digest(tutti.Threads(1), "two")
    assert digest(tutti.Threads(3), "two", strategy=TaskParallel(assign)) == right
    assert digest(tutti.Processes(2, transport="tcp"), "two", strategy=TaskParallel(assign)) == right


def many_rows(kind: str) -> tuple[Array, Array, Array | None]:
    """Return rows enough for nodes that are split on summed histograms, one column of categories."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((15_000, 5))
    x[rng.random(x.shape) < 0.05] = np.nan
    x[:, 4] = rng.integers(0, 9, len(x))
    z = np.nansum(x[:, :3], axis=1) + x[:, 4] % 4
    y = {"two": (z > 1).astype(int), "three": np.digitize(z, [0, 2]), "regression": z + rng.standard_normal(len(x))}[
        kind
    ]
    return x, y, rng.random(len(x)) + 0.5 if kind == "three" else None


def spread_digest(kind: str, engine: Any, strategy: Any, **params: Any) -> tuple[str, float]:
    x, y, weight = many_rows(kind)
    made = tutti.RandomForestRegressor if kind == "regression" else tutti.RandomForestClassifier
    model = made(
        5, max_features=2, oob_score=True, categorical_features=[4], engine=engine, strategy=strategy, **params
    )
    model.fit(x, y, weight)
    return model.report_.sha256, model.oob_score_


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["two", "three", "regression"])
def test_rows_that_stay_with_their_workers_give_the_same_forest(kind: str) -> None:
    right = spread_digest(kind, tutti.Threads(2), TaskParallel())
    assert spread_digest(kind, tutti.Threads(3), tutti.AllReduce()) == right


@pytest.mark.parametrize(
    ("kind", "params"),
    diagonal({"max_depth": 3}, {"min_samples_leaf": 20, "ccp_alpha": 0.001}, {"bootstrap": False, "oob_score": False}),
)
def test_rows_that_stay_give_the_same_forest_for_any_number_of_workers(kind: str, params: dict[str, Any]) -> None:
    x, y, weight = many_rows(kind)
    made = tutti.RandomForestRegressor if kind == "regression" else tutti.RandomForestClassifier

    def sha(engine: Any, strategy: Any) -> str:
        found: str = made(5, engine=engine, strategy=strategy, **params).fit(x, y, weight).report_.sha256
        return found

    right = sha(tutti.Threads(1), TaskParallel())
    for n in (1, 2, 3, 5, 8):
        assert sha(tutti.Threads(n), tutti.AllReduce()) == right
    for n in (2, 3):
        assert sha(tutti.Processes(n, transport="tcp"), tutti.AllReduce()) == right


def test_shards_do_not_show_where_rows_are_in_order() -> None:
    assert len({digest(tutti.Threads(2), "three", n_shards=n) for n in (1, 3, 8)}) == 1


@dataclass(frozen=True)
class Mortal(ForestLearner):
    """A forest whose worker is killed once, as soon as it begins the tree for which a file lies in a folder.

    Parameters
    ----------
    fatal : the folder.
    """

    fatal: str = ""

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        try:
            os.unlink(os.path.join(self.fatal, f"{int(shared['stage'][0])}-{task}"))
        except FileNotFoundError:
            return super().perform(shared, task, rows)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.parametrize("fatal", ["2-4", pytest.param("1-3", marks=pytest.mark.thorough)])
def test_a_worker_that_is_killed_changes_no_bit(fatal: str, tmp_path: Path) -> None:
    data = from_arrays(np.nan_to_num(X), (Y > 0).astype(int))
    schema = data.schema("classification")

    def model(engine: Any, folder: str) -> dict[str, Array]:
        learner = Mortal(n_trees=12, max_features=2, n_shards=8, fatal=folder)
        found = train(learner, data, schema=schema, strategy=TaskParallel(), engine=engine, seed=1)
        return {name: a for name, a in found.arrays.items() if name.startswith("tree_")}

    right = model(tutti.Threads(1), str(tmp_path / "none"))
    (tmp_path / fatal).touch()
    with pytest.warns(RuntimeWarning, match="the others go on"):
        found = model(tutti.Processes(3), str(tmp_path))
    assert model_sha256(found) == model_sha256(right)
