"""Fits on exact sums whose workers are killed: one SHA-256, nothing whole is done again; plans that say so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tests.strategies.dying import DyingBoosting, DyingForest
from tutti.comm._membership import Membership
from tutti.engines.processes import links
from tutti.errors import RankLost
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import draft_plan, train
from tutti.strategies._dealt import dealt, dealt_again
from tutti.types import Result, Round

R = np.random.default_rng(0)
X = R.standard_normal((1500, 6))
X[R.random(X.shape) < 0.05] = np.nan
Z = np.nan_to_num(X[:, 0] + X[:, 1] * X[:, 2])
WEIGHT = R.random(1500)
DATA = {
    "two": tutti.from_arrays(X, (Z > 0).astype(int)),
    "three": tutti.from_arrays(X, np.digitize(Z, [-1, 1])),
    "weighted": tutti.from_arrays(X, Z, WEIGHT),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "two": {},
    "three": {"subsample": 0.7, "max_features": 0.5, "early_stopping": True, "n_iter_no_change": 3},
    "weighted": {"loss": "absolute_error", "grow": "leafwise", "max_depth": None, "max_leaf_nodes": 12},
}


def fit(kind: str, engine: Any, folder: str, forest: bool = False, **more: Any) -> Result:
    data = DATA[kind]
    schema = data.schema("regression" if kind == "weighted" else "classification")
    criterion: Any = "squared_error" if kind == "weighted" else "gini"
    learner: Any = (
        DyingForest(n_trees=6, max_features=2, n_shards=8, criterion=criterion, oob=True, folder=folder)
        if forest
        else DyingBoosting(n_estimators=5, max_bins=64, folder=folder, **SETTINGS[kind])
    )
    return train(learner, data, schema=schema, strategy=tutti.AllReduce(), engine=engine, seed=3, **more)


def sha(result: Result) -> str:
    return model_sha256(dict(result.arrays))


_RIGHT: dict[tuple[str, bool], tuple[str, int]] = {}


def right(kind: str, forest: bool = False) -> tuple[str, int]:
    """Return the SHA-256 of a fit in one worker, and how many rounds it told."""
    if (kind, forest) not in _RIGHT:
        found = fit(kind, tutti.Threads(1), "", forest)
        _RIGHT[kind, forest] = sha(found), len(found.history)
    return _RIGHT[kind, forest]


def goes_on(kind: str, size: int, fatal: list[str], folder: Path, forest: bool = False, **engine: Any) -> Result:
    for name in fatal:
        (folder / name).touch()
    with pytest.warns(RuntimeWarning, match=r"rank \d .* was lost .* the others go on"):
        result = fit(kind, tutti.Processes(size, **engine), str(folder), forest)
    assert not list(folder.iterdir()), "not every place was reached"
    assert (sha(result), len(result.history)) == right(kind, forest)
    assert result.faults == len(fatal)
    assert len(result.reports) == size - len(fatal)
    return result


def first(size: int, rank: int) -> int:
    return dealt(8, size, rank)[0]


SETUP, BINS, COUNT, BASE, SLOPES, ROOT, DEEP = 1, 2, 3, 4, 5, 7, 9  # numbers of calls: each rank makes the same ones
LAST = {"two": 45, "three": 115, "weighted": 118}  # in the last tree
thorough, slow = pytest.mark.thorough, pytest.mark.slow


@pytest.mark.parametrize(
    ("rank", "call"),
    [
        (0, BINS),
        (1, BASE),
        (0, DEEP),
        pytest.param(1, SETUP, marks=thorough),
        pytest.param(1, COUNT, marks=slow),
        pytest.param(0, SLOPES, marks=slow),
        pytest.param(1, ROOT, marks=thorough),
        pytest.param(0, LAST["two"], marks=thorough),
    ],
)
def test_the_one_that_is_left_ends_the_fit_alone(rank: int, call: int, tmp_path: Path) -> None:
    goes_on("two", 2, [f"{first(2, rank)}-{call}"], tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["three", "weighted"])
@pytest.mark.parametrize(
    "places", [{2: 30, 0: 40}, pytest.param({0: DEEP}, marks=slow), pytest.param({1: 55, 2: 55}, marks=thorough)]
)
def test_workers_are_lost_one_after_the_other(kind: str, places: dict[int, int], tmp_path: Path) -> None:
    goes_on(kind, 3, [f"{first(3, rank)}-{call}" for rank, call in places.items()], tmp_path)


@pytest.mark.parametrize("kind", [pytest.param("three", marks=slow), pytest.param("weighted", marks=thorough)])
def test_a_worker_is_lost_at_the_end(kind: str, tmp_path: Path) -> None:
    goes_on(kind, 3, [f"{first(3, 1)}-{LAST[kind]}"], tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("places", [{0: 20, 1: 20, 2: 33, 4: 1}, {3: 2, 2: 21, 1: 21, 0: 30}])
def test_four_of_five_are_lost(places: dict[int, int], tmp_path: Path) -> None:
    result = goes_on("two", 5, [f"{first(5, rank)}-{call}" for rank, call in places.items()], tmp_path)
    assert "1 go on" in result.notes[-1]


@pytest.mark.parametrize("kind", ["three", "weighted"])
@pytest.mark.parametrize(
    "places",
    [
        {2: 4, 0: 9},
        pytest.param({0: 1}, marks=thorough),
        pytest.param({1: 2}, marks=slow),
        pytest.param({1: 12}, marks=slow),
        pytest.param({0: 15, 1: 15}, marks=thorough),
    ],
)
def test_a_forest_whose_rows_are_dealt_goes_on(kind: str, places: dict[int, int], tmp_path: Path) -> None:
    goes_on(kind, 3, [f"{first(3, rank)}-{call}" for rank, call in places.items()], tmp_path, forest=True)


@pytest.mark.thorough
def test_a_frozen_worker_is_killed_and_changes_no_bit(tmp_path: Path) -> None:
    goes_on("two", 3, [f"{first(3, 1)}-{DEEP}-stop"], tmp_path, timeout_seconds=1.0)


def test_nothing_that_is_whole_is_done_again(tmp_path: Path) -> None:
    undisturbed = fit("two", tutti.Processes(3), "").reports[0].rounds
    disturbed = goes_on("two", 3, [f"{first(3, 1)}-{LAST['two']}"], tmp_path)
    a_tree = undisturbed // 5 + 1
    assert undisturbed < disturbed.reports[0].rounds <= undisturbed + a_tree
    assert [r.rank for r in disturbed.reports] == [0, 2]
    assert "rank 1 was lost after step 4; 2 go on with the rows of all shards" in disturbed.notes[0]


@pytest.mark.thorough
def test_a_fit_goes_on_whenever_a_worker_is_killed() -> None:
    """The caller kills a worker as it hears of a round; the rounds that follow are told by whoever is left."""
    data, engine = DATA["two"], tutti.Processes(3)
    schema, learner = data.schema("classification"), DyingBoosting(n_estimators=400, max_depth=3)

    def run(watch: Any = None) -> Result:
        return train(learner, data, schema=schema, strategy=tutti.AllReduce(), engine=engine, watch=watch)

    for rank, step in ((0, 5), (2, 60)):
        undisturbed, told = run(), list[int]()
        pids = {report.rank: report.pid for report in undisturbed.reports}

        def watch(event: object, rank: int = rank, step: int = step, pids: Any = pids, told: Any = told) -> None:
            if isinstance(event, Round):
                told.append(event.step)
                if event.step == step:
                    os.kill(pids[rank], signal.SIGKILL)

        with pytest.warns(RuntimeWarning, match="the others go on"):
            found = run(watch)
        assert sha(found) == sha(undisturbed)
        assert told[:step] == list(range(1, step + 1))
        assert told[-1] == 400
    assert not run().faults, "the next fit has sound workers"


def test_over_sockets_a_killed_worker_is_one_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / f"{first(2, 1)}-{DEEP}").touch()
    began = time.monotonic()
    with pytest.raises(RankLost, match=r"rank 1 .*SIGKILL"):
        fit("two", tutti.Processes(2, transport="tcp"), str(tmp_path))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("forest", [False, True])
def test_the_plan_says_what_a_lost_worker_costs(forest: bool) -> None:
    learner: Any = DyingForest(n_trees=3, n_shards=8) if forest else DyingBoosting()
    schema = DATA["two"].schema("classification")

    def plan(engine: Any) -> Any:
        return draft_plan(DATA["two"], schema, learner, tutti.AllReduce(), engine, 8)

    assert plan(tutti.Processes(3)).tolerant
    assert "a worker that is lost leaves its rows to the others" in plan(tutti.Processes(3)).notes[-1]
    assert not plan(tutti.Processes(2, transport="tcp")).tolerant
    assert plan(tutti.Processes(2, transport="tcp")).notes[-1] == "through 'tcp' a lost worker ends the run"
    for engine in (tutti.Processes(1), tutti.Threads(2)):
        assert not plan(engine).tolerant
        assert not any("lost" in note for note in plan(engine).notes)


def test_explain_says_so() -> None:
    model = tutti.GradientBoostingClassifier(engine=tutti.Processes(2))
    assert "a worker that is lost leaves its rows to the others" in str(model.explain(X, Z > 0))


def test_shards_of_lost_workers_go_to_those_who_have_least() -> None:
    assert dealt_again(8, [0, 0, 0]) == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert dealt_again(8, [0, 1, 0]) == [[0, 1, 2, 3], [], [4, 5, 6, 7]]
    assert dealt_again(8, [2, 1, 0]) == [[], [], list(range(8))]
    assert dealt_again(8, [1, 0, 1]) == [[], list(range(8)), []]
    for dropped in ([0, 1, 0, 2, 0], [3, 1, 2, 0, 0], [1, 1, 1, 2, 0]):
        held = dealt_again(8, dropped)
        assert sorted(s for shards in held for s in shards) == list(range(8))
        assert [bool(shards) for shards in held] == [not generation for generation in dropped]
        for generation in range(1, max(dropped)):
            before = dealt_again(8, [g if g <= generation else 0 for g in dropped])
            assert all(set(a) <= set(b) for a, b, g in zip(before, held, dropped, strict=True) if not g)


def test_the_first_who_regroups_decides_and_a_late_one_skips_a_generation() -> None:
    seats = links(4)
    members = [Membership(seat) for seat in seats]
    board = seats[0].board
    board.settle(3, 2)
    assert members[0].regroup(7, 4096).dropped == (0, 0, 0, 1)
    board.settle(1, 2)
    found = members[2].regroup(7, 4096)
    assert (found.meetings, found.allocated, found.left) == (8, 4096, [0, 1, 2]), "rank 1 was there when it was decided"
    later = members[0].regroup(9, 8192)
    assert (later.meetings, later.allocated, later.dropped) == (10, 8192, (0, 2, 0, 1))
    assert members[2].regroup(9, 8192) == later
    board.settle(0, 2)
    assert members[2].regroup(11, 8192).left == [2]
