"""The fault matrix: every fault at every moment on every engine ends in one exception, in time, and leaves nothing."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator

import pytest

from tutti.engines.processes import Processes, shutdown
from tutti.engines.threads import Threads
from tutti.errors import RankError, RankLost
from tutti.protocols import Engine, Program
from tutti.testing import faults
from tutti.testing.engine import check_fault, check_good_run, open_descriptors, plan, thread_limits
from tutti.testing.faults import MOMENTS, Fault, Moment

pytestmark = pytest.mark.thorough
THREADS = Threads(timeout_seconds=0.5)
PROCESSES = Processes(timeout_seconds=1.5)

CASES: list[tuple[Engine, Fault, Moment, int]] = [
    *((THREADS, f, m, n) for f, m, n in itertools.product(faults.IN_PROCESS, MOMENTS, (1, 2, 4))),
    *((THREADS, "spin", m, n) for m, n in itertools.product(MOMENTS, (2, 3))),
    *((PROCESSES, f, m, n) for f, m, n in itertools.product(faults.IN_PROCESS, MOMENTS, (1, 3))),
    *((PROCESSES, f, m, n) for f, m, n in itertools.product(("os_exit", "kill"), MOMENTS, (1, 2, 4))),
]
FROZEN: list[tuple[Engine, Fault, Moment, int]] = [
    (PROCESSES, "freeze", m, n) for m, n in zip(MOMENTS, (1, 2, 4), strict=True)
]


def name(case: tuple[Engine, Fault, Moment, int]) -> str:
    engine, fault, moment, size = case
    return f"{type(engine).__name__}-{fault}-{moment}-{size}"


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Beyond what every test is held to: descriptors and native thread pools, with the warm workers ended."""
    check_good_run(THREADS, 2)  # what is loaded once per process is loaded before the first look
    shutdown()
    gc.collect()  # files that earlier tests have left to the collector are not closed in between
    before = open_descriptors(), thread_limits()
    yield
    shutdown()
    assert (open_descriptors(), thread_limits()) == before


@pytest.mark.parametrize("case", CASES + FROZEN, ids=name)
def test_a_fault_ends_in_one_exception_and_leaves_nothing(
    case: tuple[Engine, Fault, Moment, int], nothing_is_left: None
) -> None:
    engine, fault, moment, size = case
    caught = check_fault(engine, size, fault, fault_rank=size // 2, moment=moment)
    in_caller = isinstance(engine, Threads)
    if isinstance(caught, RankError | RankLost):
        assert (caught.pid == os.getpid()) == in_caller


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_faults_in_a_row_leave_nothing(nothing_is_left: None) -> None:
    matrix = list(itertools.islice(itertools.cycle(CASES), 100))
    for k, (engine, fault, moment, size) in enumerate(matrix):
        check_fault(engine, size, fault, fault_rank=k % size, moment=moment)


def test_ranks_that_are_not_to_blame_stay_warm() -> None:
    engine = Processes(3)
    before = {found["pid"] for found in engine.launch(Program(faults.ECHO), plan(3)).results()}
    caught = check_fault(engine, 3, "kill", fault_rank=1)
    assert isinstance(caught, RankLost)
    after = {found["pid"] for found in engine.launch(Program(faults.ECHO), plan(3)).results()}
    assert before - after == {caught.pid}


def test_a_frozen_rank_is_killed_and_reaped() -> None:
    caught = check_fault(Processes(2, timeout_seconds=1.0), 2, "freeze")
    assert isinstance(caught, RankLost)
    with pytest.raises(ProcessLookupError):
        os.kill(caught.pid, 0)
