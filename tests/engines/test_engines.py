"""The engines as parameter objects, and the state of the process around a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tutti.engines._limits import one_openmp_thread, one_thread
from tutti.engines.processes import Processes, shutdown, worker_pids
from tutti.engines.threads import Threads
from tutti.errors import Aborted, InputError, ParameterError
from tutti.protocols import Engine, Program, RankContext
from tutti.testing import faults
from tutti.testing.engine import check_fault, plan, thread_limits

HERE = "tests.engines.test_engines"
ENGINES = pytest.mark.parametrize("make", [Threads, Processes])


@ENGINES
def test_engines_are_inert_and_cloneable(make: Callable[..., Any]) -> None:
    engine = make(n=3)
    assert type(engine)(**engine.get_params()) == engine
    assert engine.set_params(n=4).n == 4
    assert isinstance(engine, Engine)
    assert len(engine.places()) == 4
    assert len(make().places()) == len(os.sched_getaffinity(0))


@ENGINES
@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 1.5}, {"n": True}, {"timeout_seconds": 0}, {"timeout_seconds": "1"}])
def test_impossible_parameters_are_refused(make: Callable[..., Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="write a positive number"):
        make(**wrong)


def test_a_pulse_needs_a_second() -> None:
    with pytest.raises(ParameterError, match="write at least 1"):
        Processes(timeout_seconds=0.5)


def test_a_program_in_main_is_refused_by_processes() -> None:
    with pytest.raises(InputError, match="move it into a module of its own"):
        Processes(1).launch(Program("__main__:f"), plan(1))


def test_a_program_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        Threads(1).launch(Program("tutti.testing.faults:nothing_of_the_kind"), plan(1))


def limits(context: RankContext) -> list[int]:
    np.ones((50, 50)) @ np.ones((50, 50))
    return [n for _, n in thread_limits()]


@ENGINES
@pytest.mark.parametrize("size", [1, 2])
def test_native_pools_have_one_thread_during_a_run_and_their_own_number_after(
    make: Callable[..., Any], size: int
) -> None:
    before = thread_limits()
    for found in make().launch(Program(f"{HERE}:limits"), plan(size)).results():
        assert set(found) == {1}
    check_fault(make(), size, "raise")
    make().launch(Program(faults.ROUNDS, {"n_steps": 10**9}), plan(size)).stop()
    assert thread_limits() == before


def test_overlapping_runs_give_the_pools_back_once() -> None:
    before = thread_limits()
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with one_openmp_thread():
        assert {n for _, n in thread_limits()} == {1}
    second.__exit__(None, None, None)
    assert thread_limits() == before


def read_only(context: RankContext, x: Any) -> bool:
    return bool(x.flags.writeable)


def test_workers_cannot_write_into_memory_that_all_of_them_map() -> None:
    for n in (10, 100_000):
        assert Processes(2).launch(Program(f"{HERE}:read_only", {"x": np.zeros(n)}), plan(2)).results() == [False] * 2


def test_two_fits_at_once_have_workers_of_their_own() -> None:
    found: list[Any] = []

    def fit() -> None:
        found.append(Processes(2).launch(Program(faults.ROUNDS, {"n_steps": 200}), plan(2)).results())

    threads = [threading.Thread(target=fit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(sums[0], sums[1]) and np.array_equal(sums[0], found[0][0]) for sums in found)
    shutdown()
    assert worker_pids() == []


def test_a_worker_that_died_while_idle_is_replaced() -> None:
    pids = [f["pid"] for f in Processes(2).launch(Program(faults.ECHO), plan(2)).results()]
    os.kill(pids[0], 9)
    os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
    found = [f["pid"] for f in Processes(2).launch(Program(faults.ECHO), plan(2)).results()]
    assert pids[0] not in found
    assert pids[1] in found


def returns_a_lock(context: RankContext) -> Any:
    return threading.Lock()


def test_a_result_that_cannot_travel_is_an_input_error() -> None:
    with pytest.raises(InputError, match="a lock cannot be sent"):
        Processes(2).launch(Program(f"{HERE}:returns_a_lock"), plan(2)).results()


def big(context: RankContext, n: int) -> Any:
    return {"model": np.full(n, context.seat.rank, np.float64)}


@pytest.mark.slow
def test_results_of_hundreds_of_megabytes_come_back() -> None:
    n = 40_000_000
    for rank, found in enumerate(Processes(2).launch(Program(f"{HERE}:big", {"n": n}), plan(2)).results()):
        assert found["model"].shape == (n,)
        assert (found["model"] == rank).all()


@ENGINES
@pytest.mark.parametrize("size", [1, 2])
def test_a_watch_may_stop_the_run(make: Callable[..., Any], size: int) -> None:
    run = make().launch(Program(faults.ANNOUNCE, {"n_events": 100_000}), plan(size))
    with pytest.raises(Aborted, match="stopped by the caller"):
        run.results(lambda event: run.stop())
    assert len(make().launch(Program(faults.ROUNDS), plan(size)).results()) == size


@ENGINES
@pytest.mark.parametrize("size", [1, 2])
def test_another_thread_may_stop_the_run(make: Callable[..., Any], size: int) -> None:
    run = make().launch(Program(faults.ROUNDS, {"n_steps": 10**9, "announce": True}), plan(size))
    begun = threading.Event()
    other = threading.Thread(target=lambda: (begun.wait(), run.stop()))
    other.start()
    with pytest.raises(Aborted, match="stopped by the caller"):
        run.results(lambda event: begun.set())
    other.join()


def test_a_run_is_over_after_its_results() -> None:
    for engine in (Threads(2), Processes(2)):
        run = engine.launch(Program(faults.ECHO), plan(2))
        run.results()
        with pytest.raises(RuntimeError, match="launch the program again"):
            run.results()
