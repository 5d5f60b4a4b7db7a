"""Tasks dealt to workers: the same bits whoever does them, also when a worker is killed; plans; refusals."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tests.contract.toys import Columns, Mean
from tutti.errors import ParameterError, PlanError, RankError
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import draft_plan, train
from tutti.strategies._dealer import Dealer, finished
from tutti.strategies.task_parallel import Assign, by_cost
from tutti.tasking import Rows
from tutti.testing.strategy import check_strategy
from tutti.testing.tasks import check_tasked, perform_all
from tutti.types import Arrays, Result, TaskDone

X = np.random.default_rng(0).standard_normal((500, 6))
ASSIGNS: list[Assign] = ["balanced", "round_robin", "random", "static"]
DATA = tutti.from_arrays(X, X[:, 0])
SCHEMA = DATA.schema("regression")


def fit(engine: Any, assign: Assign = "balanced", learner: Any = None, **more: Any) -> Result:
    return train(
        learner or Columns(), DATA, schema=SCHEMA, strategy=tutti.TaskParallel(assign), engine=engine, seed=3, **more
    )


def sha(result: Result) -> str:
    return model_sha256({name: result.arrays[name] for name in ("coef", "intercept")})


@pytest.fixture(scope="module")
def right() -> str:
    return sha(fit(tutti.Threads(1)))


@pytest.mark.parametrize("assign", ASSIGNS)
def test_same_bits_for_any_number_of_workers_and_any_assignment(assign: Assign, right: str) -> None:
    engines = [*map(tutti.Threads, (1, 2, 3, 5, 11)), tutti.Processes(2), tutti.Processes(3)]
    check_strategy(tutti.TaskParallel(assign), Columns(), DATA, SCHEMA, engines)
    assert sha(fit(tutti.Threads(3), assign)) == right


def test_the_toy_keeps_the_contract_of_tasks(right: str) -> None:
    settled = DATA.settled(8, SCHEMA)
    shards = {s: settled.open(s, 8, SCHEMA) for s in range(8)}
    check_tasked(Columns(), SCHEMA, shards, model=("coef", "intercept"))
    found = perform_all(Columns(), SCHEMA, shards, seed=3)
    assert model_sha256({name: found[name] for name in ("coef", "intercept")}) == right


@pytest.mark.parametrize("assign", ASSIGNS)
def test_workers_that_see_no_common_memory_send_each_other_what_they_found(assign: Assign, right: str) -> None:
    assert sha(fit(tutti.Processes(3, transport="tcp"), assign)) == right


@pytest.mark.thorough
@pytest.mark.parametrize("assign", ASSIGNS)
@pytest.mark.parametrize("fatal", [["0-3"], ["1-7"], ["0-0", "1-29"], ["1-0", "1-1"]])
def test_survivors_do_the_tasks_of_a_worker_that_is_killed(
    assign: Assign, fatal: list[str], right: str, tmp_path: Path
) -> None:
    for name in fatal:
        (tmp_path / name).touch()
    with pytest.warns(RuntimeWarning, match="the others go on"):
        result = fit(tutti.Processes(3), assign, Columns(fatal=str(tmp_path)))
    assert sha(result) == right
    assert result.faults == len(fatal)
    assert len(result.reports) == 3 - len(fatal)


@dataclass(frozen=True)
class Long(Columns):
    """The first task of the second stage takes three seconds, and says so."""

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        ends = time.monotonic() + (3.0 if shared["stage"][0] and task == 0 else 0.0)
        while time.monotonic() < ends:
            rows.alive()
        return super().perform(shared, task, rows)


@pytest.mark.thorough
def test_a_long_task_that_says_so_is_not_taken_for_lost(right: str) -> None:
    assert sha(fit(tutti.Threads(2, timeout_seconds=1.0), learner=Long())) == right


def test_a_task_that_raises_ends_the_run_with_its_error() -> None:
    with pytest.raises(RankError, match="task 5 was told to fail"):
        fit(tutti.Threads(2), learner=Columns(fail_at=5))


def test_every_task_is_done_once_where_nobody_is_lost() -> None:
    result = fit(tutti.Threads(3))
    assert sum(report.counts["tasks"] for report in result.reports) == 8 + 30


def test_stages_are_told_as_rounds() -> None:
    assert [(r.step, r.kind, r.metrics["tasks"]) for r in fit(tutti.Threads(2)).history] == [
        (1, "part", 8.0),
        (2, "part", 30.0),
    ]


def test_the_plan_shows_tasks_and_who_gets_them() -> None:
    def plan(assign: Assign, engine: Any) -> Any:
        return draft_plan(DATA, SCHEMA, Columns(), tutti.TaskParallel(assign), engine, 8)

    sums, columns = plan("balanced", tutti.Threads(2)).stages
    assert (sums.name, len(sums.costs), sums.ranks) == ("sums", 8, None)
    assert columns.costs[:3] == (1.0, 2.0, 3.0)
    assert plan("round_robin", tutti.Threads(2)).stages[0].ranks == (0, 1) * 4
    assert plan("static", tutti.Threads(2)).stages[0].ranks == (0,) * 4 + (1,) * 4
    assert sorted(plan("random", tutti.Threads(2)).stages[0].ranks) == [0] * 4 + [1] * 4
    assert plan("balanced", tutti.Processes(2, transport="tcp")).stages[0].ranks is not None
    most = plan("balanced", tutti.Threads(64))
    assert most.size == 30
    assert "64 workers were asked for, 30 have work" in most.notes[0]


def test_tasks_may_feed_more_workers_than_there_are_shards() -> None:
    result = train(
        Columns(), DATA, schema=SCHEMA, strategy=tutti.TaskParallel(), engine=tutti.Threads(11), n_shards=8, seed=3
    )
    assert len(result.reports) == 11


def test_a_learner_without_tasks_is_refused() -> None:
    with pytest.raises(PlanError, match="TaskParallel deals tasks, but Mean offers gradient"):
        draft_plan(DATA, SCHEMA, Mean(), tutti.TaskParallel(), tutti.Threads(2), 8)


def test_a_learner_with_nothing_but_tasks_is_refused_elsewhere() -> None:
    with pytest.raises(PlanError, match="Columns offers part"):
        draft_plan(DATA, SCHEMA, Columns(), tutti.AllReduce(), tutti.Threads(2), 8)


def test_an_unknown_assignment_is_refused() -> None:
    with pytest.raises(ParameterError, match="write one of 'balanced', 'round_robin', 'random', 'static'"):
        tutti.TaskParallel("greedy")  # type: ignore[arg-type]


def test_largest_first_evens_out_the_load() -> None:
    assert by_cost([1, 5, 2, 2], 2) == [1, 0, 1, 1]


class Table:
    """What ranks have in common, for ranks that are played one after the other."""

    def __init__(self) -> None:
        self.run, self.waited, self.dead = 7, 0.0, set[int]()
        self._given: list[Any] = []
        self.turn = 0

    def memory(self, n_bytes: int) -> Any:
        self.turn += 1
        if self.turn > len(self._given):
            self._given.append(np.full(n_bytes, 0xA5, np.uint8))
        return self._given[self.turn - 1]

    def locks(self, n: int) -> Any:
        return [contextlib.nullcontext()] * n

    def ring(self) -> None: ...

    def wait(self, until: Any) -> None:
        assert until(), "this rank would wait"

    def gone(self, rank: int) -> bool:
        return rank in self.dead


def seats(size: int, costs: list[float], dealt: list[int] | None = None) -> tuple[Table, list[Dealer]]:
    table, found = Table(), []
    for rank in range(size):
        table.turn = 0
        found.append(Dealer(table, rank, size))
        found[-1].begin(costs, dealt)
    return table, found


def test_a_free_worker_takes_the_largest_task() -> None:
    _, (first, second) = seats(2, [1.0, 5.0, 3.0])
    assert (first.take(), second.take()) == (1, 2)


def test_a_slow_worker_takes_what_it_ends_in_time_or_leaves_it() -> None:
    _, (slow, quick) = seats(2, [8.0, 8.0, 4.0, 1.0])
    slow.take()
    quick.take()
    slow.give(0, {})
    quick.give(1, {})
    slow._reals[0, 1], slow._reals[1, 1] = 3.0, 1.0  # seconds for a cost of 1
    assert slow._choose() == 3, "4 would take it 12 s, and the quick one is through in 5"
    slow._reals[0, 1] = 100.0
    assert slow._choose() is None
    assert quick._choose() == 2


def test_what_a_lost_worker_had_begun_comes_first() -> None:
    table, (first, second, _) = seats(3, [1.0] * 6, dealt=[0, 1, 2, 0, 1, 2])
    assert first.take() == 0
    table.dead.add(0)
    assert second.take() == 0
    second.give(0, {})
    assert second.take() == 3, "what was dealt to it is left, too"


def test_ten_thousand_tasks_are_dealt_in_the_order_of_their_cost() -> None:
    costs = np.random.default_rng(0).random(10_000).tolist()
    _, (first, second) = seats(2, costs)
    taken = []
    for _ in range(4_000):
        for rank in (first, second):
            task = rank.take()
            assert task is not None
            rank.give(task, {})
            taken.append(task)
    assert taken == sorted(range(10_000), key=lambda t: -costs[t])[:8_000]


def test_when_others_would_be_through() -> None:
    assert finished(10.0, [(1.0, 8.0, 3.0)], [2.0, 1.0]) == 14.0
    assert finished(10.0, [(1.0, 8.0, 3.0), (2.0, 0.0, 0.0)], [2.0, 1.0]) == 14.0
    late = finished(10.0, [(1.0, 4.0, 1.0)], [])
    assert late == 16.0, "who is late is thought to need as long again"


def test_events_tell_how_far_a_stage_is() -> None:
    seen: list[Any] = []
    fit(tutti.Threads(2), watch=seen.append)
    assert all(0 < e.done <= e.total for e in seen if isinstance(e, TaskDone))
