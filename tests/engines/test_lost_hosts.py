"""A parameter server over `tutti.Hosts` goes on whatever is lost: processes start again, other hosts take seats."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Company
from tests.engines.test_hosts import until_gone
from tests.strategies.counting import PUSHED
from tests.strategies.test_network import check_exact, lost, run
from tutti.engines.hosts import Hosts
from tutti.errors import RankLost
from tutti.types import Fault, Note

pytestmark = pytest.mark.timeout(120)


def faults(seen: list[Any]) -> list[tuple[int | None, bool]]:
    """Return rank of each fault, and whether a process of the same host takes its place."""
    return [(e.rank, "started again" in e.message) for e in seen if isinstance(e, Fault) and e.rank is not None]


@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize("fault", ["kill", pytest.param("stop", marks=pytest.mark.thorough)])
def test_a_worker_is_started_again_and_nothing_is_lost(
    company: Company, tmp_path: Path, fault: str, claim: bool
) -> None:
    engine, seen = company.engine(3, workers=(2, 3)), list[Any]()
    result = run(3, 2, 2, claim=claim, engine=engine, fault=fault, note=str(tmp_path / "n"), seen=seen)
    ((_, again),) = faults(seen)
    assert again
    check_exact(result, 3)
    check_exact(run(3, 2, 2, claim=claim, engine=engine), 3)


@pytest.mark.thorough
@pytest.mark.parametrize("i", [0, 1])
def test_a_server_goes_on_from_its_snapshot_and_says_what_is_lost(company: Company, tmp_path: Path, i: int) -> None:
    engine, seen = company.engine(2, workers=(2, 2)), list[Any]()
    result = run(2, 2, 2, engine=engine, fault="kill", at=f"move {i}", after=70, note=str(tmp_path / "n"), seen=seen)
    assert faults(seen) == [(2 + i, True)]
    (said,) = lost(seen)
    assert ("are gone" if i else "are computed again") in said
    assert result.arrays["counts"][PUSHED] == 80
    if not i:
        check_exact(result, 2, early=None)


def joined_one_by_one(company: Company, engine: Hosts, *workers: int) -> None:
    """Start workers so that the first ones get the first ranks."""
    from tutti.engines._lobby import lobby

    there = 0
    for k in workers:
        company.join(engine, k)
        there += k
        deadline = time.monotonic() + 30
        while lobby(engine.listen, engine.token_file, 2.0).joined() < there:
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Seen(list[Any]):
    """Events; something is done at the first one."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self._do = do

    def append(self, event: Any) -> None:
        super().append(event)
        if len(self) == 1:
            self._do()


SLOW = {"delay": 0.02, "epochs": 4, "steps": 40, "judges": False}


@pytest.mark.thorough
@pytest.mark.parametrize("claim", [True, False])
def test_the_seat_of_a_host_that_is_gone_goes_to_one_that_joins(company: Company, claim: bool) -> None:
    engine = company.engine(2, local=1)
    joined_one_by_one(company, engine, 1)

    def swap() -> None:
        company.workers[0].kill()
        company.join(engine, 1)

    seen = Seen(swap)
    result = run(2, 1, 2, claim=claim, engine=engine, seen=seen, **SLOW)
    assert faults(seen) == [(1, False)]
    assert [e.message.split(" at ")[0] for e in seen if isinstance(e, Note)] == ["rank 1 goes on"]
    assert sorted(report.rank for report in result.reports) == [0, 1, 2]
    if claim:
        check_exact(result, 2, steps=160, early=None)


@pytest.mark.thorough
def test_without_another_host_the_others_go_on(company: Company) -> None:
    engine = company.engine(2, local=1)
    joined_one_by_one(company, engine, 1)
    seen = Seen(company_kill(company, 0))
    result = run(2, 1, 2, engine=engine, seen=seen, **SLOW)
    assert faults(seen) == [(1, False)]
    check_exact(result, 2, steps=160, early=None)


def company_kill(company: Company, i: int) -> Callable[[], None]:
    return lambda: company.workers[i].kill()


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_with_a_server_ends_the_run_with_one_exception(company: Company, number: signal.Signals) -> None:
    engine = company.engine(2)
    joined_one_by_one(company, engine, 1, 1, 1)
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.monotonic())
        os.kill(company.workers[2].pid, number)

    with pytest.raises(RankLost) as caught:
        run(2, 1, 2, engine=engine, seen=Seen(strike), **SLOW)
    assert caught.value.rank == 2
    assert time.monotonic() - struck[0] < (2.0 if number == signal.SIGKILL else engine.timeout_seconds + 1.0)
    company.workers[2].kill()
    until_gone(caught.value.pid)
