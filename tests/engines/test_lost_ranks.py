"""A tolerant run goes on without ranks that were lost, or with another process in their place."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import tutti
from tests.contract.toys import Dying, Mean
from tutti.engines._judge import Done, Exited, Judge, Returned, Sign, Silent
from tutti.engines.processes import Processes, worker_pids
from tutti.errors import RankError, RankLost
from tutti.protocols import Program
from tutti.runtime.driver import train
from tutti.testing import faults
from tutti.testing.engine import check_good_run, plan
from tutti.types import Fault, Plan


def tolerant(size: int, restarts: int = 0) -> Plan:
    return dataclasses.replace(plan(size), tolerant=True, restarts=restarts)


def outlive(engine: Processes, size: int, restarts: int, **arguments: Any) -> tuple[list[Any], list[Fault], float]:
    check_good_run(engine, size)  # starting workers is not part of the time that is measured
    seen: list[Fault] = []
    run = engine.launch(Program(faults.OUTLIVE, arguments), tolerant(size, restarts))
    began = time.perf_counter()
    found = run.results(seen.append)
    return found, seen, time.perf_counter() - began


@pytest.mark.parametrize(
    "fault, word",
    [
        ("kill", "SIGKILL"),
        ("os_exit", "exit code 3"),
        pytest.param("freeze", "no sign of life", marks=pytest.mark.thorough),
    ],
)
def test_the_others_go_on_and_return(fault: str, word: str) -> None:
    engine = Processes(3, timeout_seconds=1.0)
    found, seen, _ = outlive(engine, 3, 0, fault=fault)
    assert found[1] is None
    assert [found[0]["lost"], found[2]["lost"]] == [[1], [1]]
    (event,) = seen
    assert (event.rank, word in event.reason) == (1, True)
    assert str(event.pid) in event.message
    assert "the others go on" in event.message
    with pytest.raises(ProcessLookupError):
        os.kill(event.pid, 0)
    check_good_run(engine, 3)


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("fault", ["kill", "os_exit", "freeze"])
def test_the_others_know_in_time(fault: str) -> None:
    _, _, seconds = outlive(Processes(3, timeout_seconds=1.0), 3, 0, fault=fault)
    assert seconds < 3.0


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.thorough)])
def test_a_lost_rank_is_started_again_and_knows_it(fault: str) -> None:
    found, seen, _ = outlive(Processes(2, timeout_seconds=1.0), 2, 3, fault=fault, lives=2)
    assert [f["life"] for f in found] == [0, 2]
    assert [f["lost"] for f in found] == [[], []]
    assert [event.rank for event in seen] == [1, 1]
    assert len({event.pid for event in seen} | {found[1]["pid"]}) == 3
    assert all("it is started again" in event.message for event in seen)


def test_a_rank_is_lost_for_good_when_its_restarts_are_used_up() -> None:
    found, seen, _ = outlive(Processes(2, timeout_seconds=1.0), 2, 1, fault="kill", lives=10**9)
    assert found[1] is None
    assert found[0]["lost"] == [1]
    assert [("again" in e.message, "go on" in e.message) for e in seen] == [(True, False), (False, True)]


def test_several_ranks_may_go_but_not_the_last() -> None:
    found, seen, _ = outlive(Processes(3, timeout_seconds=1.0), 3, 0, fault="kill", fault_ranks=(0, 2))
    assert [f is None for f in found] == [True, False, True]
    assert {event.rank for event in seen} == {0, 2}
    with pytest.raises(RankLost, match="SIGKILL"):
        outlive(Processes(2, timeout_seconds=1.0), 2, 0, fault="kill", fault_ranks=(0, 1))


def test_a_rank_that_raises_ends_a_tolerant_run_too() -> None:
    with pytest.raises(RankError, match="ZeroDivisionError") as caught:
        outlive(Processes(2, timeout_seconds=1.0), 2, 1, fault="raise")
    assert caught.value.rank == 1


def test_a_collective_call_with_a_lost_rank_says_so() -> None:
    engine = Processes(2, timeout_seconds=1.0)
    arguments = {"fault": "kill", "fault_rank": 1, "moment": "others_wait"}
    with pytest.raises(RankError, match="waits in a collective call, but rank 1 was lost"):
        engine.launch(Program(faults.ROUNDS, arguments), tolerant(2)).results(lambda _: None)


def test_a_fresh_process_that_dies_as_it_starts_is_lost_in_turn() -> None:
    def watch(event: object) -> None:
        assert isinstance(event, Fault)
        events.append(event)
        if len(events) == 1:
            (young,) = set(worker_pids()) - pids
            os.kill(young, signal.SIGKILL)

    engine, events = Processes(2, timeout_seconds=1.0), list[Fault]()
    check_good_run(engine, 2)
    pids = set(worker_pids())
    run = engine.launch(Program(faults.OUTLIVE, {"fault": "kill", "lives": 2}), tolerant(2, restarts=1))
    assert run.results(watch)[1] is None
    assert [event.rank for event in events] == [1, 1]
    assert "while it started" in events[1].message
    check_good_run(engine, 2)


def test_the_judge_pardons_all_but_the_last() -> None:
    judge = Judge(3, timeout_seconds=1.0, now=0.0)
    judge.hear(Exited(1, -9))
    assert judge.look(0.1) == Exited(1, -9)
    assert judge.pardon(1, again=False)
    for k in range(1, 40):
        judge.hear(Sign(0, k))
        judge.hear(Sign(2, 7))
        verdict = judge.look(0.1 + k * 0.25)
        if verdict is not None:
            break
    assert isinstance(verdict, Silent)
    assert judge.pardon(2, again=True)
    judge.hear(Exited(2, 0))
    assert judge.look(20.0) == Exited(2, 0)
    assert judge.pardon(2, again=False)
    judge.hear(Exited(0, 0))
    assert not judge.pardon(0, again=False)


def test_the_judge_is_done_when_all_came_back_or_were_pardoned() -> None:
    judge = Judge(2, timeout_seconds=1.0, now=0.0)
    judge.hear(Returned(0))
    judge.hear(Exited(1, -9))
    assert judge.look(0.1) == Exited(1, -9)
    assert judge.pardon(1, again=False)
    assert judge.look(0.2) == Done()


def test_a_model_comes_from_the_lowest_rank_that_is_left() -> None:
    ds = tutti.from_arrays(np.ones((80, 3)), np.arange(80) % 2)
    schema = ds.schema("classification")
    with pytest.warns(RuntimeWarning, match="rank 0 .* was lost .* the others go on"):
        result = train(Mean(), ds, schema=schema, strategy=Dying(0), engine=tutti.Processes(3))
    assert [report.rank for report in result.reports] == [1, 2]
    assert "coef" in result.arrays
    assert result.faults == 1
