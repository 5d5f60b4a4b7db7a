"""A parameter server over sockets: nothing is lost or counted twice, whatever breaks."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutti
from tests.strategies.counting import EARLY, JUDGED, PUSHED, Counting
from tutti.engines import hosts
from tutti.engines.processes import Processes, shutdown
from tutti.errors import PlanError, RankError
from tutti.runtime.driver import draft_plan, train
from tutti.strategies._applied import Applied
from tutti.types import Fault, Result

pytestmark = pytest.mark.timeout(120)


def run(
    workers: int,
    servers: int,
    staleness: float = math.inf,
    *,
    claim: bool = True,
    engine: Any = None,
    seen: list[Any] | None = None,
    **learner: Any,
) -> Result:
    ds = tutti.from_arrays(np.ones((80, 3)), np.arange(80) % 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rank .* was lost|server .* was lost", RuntimeWarning)
        return train(
            Counting(staleness=staleness, here=os.getpid(), **learner),
            ds,
            schema=ds.schema("classification"),
            strategy=tutti.ParameterServer(servers=servers, staleness=staleness, claim=claim),
            engine=engine or Processes(workers, timeout_seconds=2.0, transport="tcp"),
            watch=None if seen is None else seen.append,
        )


def check_exact(result: Result, workers: int, n: int = 64, steps: int = 40, early: int | None = 0) -> None:
    """Every item of every step is in every key, once."""
    firsts = [8 * r // workers for r in range(workers)]
    np.testing.assert_array_equal(result.arrays["keys"][:n], workers * steps)
    marks = sum(1000 * step + first for step in range(steps) for first in firsts)
    np.testing.assert_array_equal(result.arrays["keys"][n:], marks)
    counts = result.arrays["counts"]
    assert counts[PUSHED] == workers * steps
    assert early is None or counts[EARLY] == early


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4))), st.sets(st.integers(0, 4)))
def test_what_was_applied_is_known(parts: int, came: list[tuple[int, int]], gone: set[int]) -> None:
    applied, there = Applied(parts), set[int]()
    for step, part in came:
        item = step * parts + part % parts
        assert applied.add(item) == (item not in there)
        there.add(item)
    for found in (applied, Applied.read(parts, applied.written())):
        assert all((item in found) == (item in there) for item in range(8 * parts))
        assert found.until() == next(s for s in range(9) if not {s * parts + p for p in range(parts)} <= there)
    left = set(range(parts)) - gone
    assert applied.until(gone) <= 8
    if left:
        assert all(s * parts + p in applied for s in range(applied.until(gone)) for p in left)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("claim", [True, False])
def test_every_update_counts_once_at_every_server(workers: int, servers: int, claim: bool) -> None:
    for staleness in (1, 2, math.inf):
        result = run(workers, servers, staleness, claim=claim)
        check_exact(result, workers)
        assert result.arrays["counts"][JUDGED] == 2
        assert len(result.reports) == workers + servers
        assert sum(rank.counts.get("pushes", 0) for rank in result.reports) == 40 * workers


@pytest.mark.thorough
@pytest.mark.parametrize("staleness", [1, 3])
def test_nobody_is_further_ahead_than_allowed_whatever_the_delays(staleness: int) -> None:
    """Checked where weights are read, for the keys of each server, and where pushes arrive."""
    for claim in (True, False):
        check_exact(run(3, 3, staleness, claim=claim, delay=0.002), 3)


@pytest.mark.thorough
@pytest.mark.parametrize("at", ["work", "judge"])
@pytest.mark.parametrize("claim", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_worker_that_is_killed_is_started_again_and_nothing_is_lost(at: str, claim: bool, tmp_path: Path) -> None:
    seen: list[Any] = []
    after = 10 if at == "work" else 2
    result = run(3, 2, 2, claim=claim, fault="kill", at=at, after=after, times=2, note=str(tmp_path / "n"), seen=seen)
    faults = [event for event in seen if isinstance(event, Fault)]
    assert len(faults) == result.faults == 2
    assert all(fault.rank in (0, 1, 2) for fault in faults)
    check_exact(result, 3)


@pytest.mark.thorough
def test_a_worker_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    result = run(2, 2, 2, fault="stop", note=str(tmp_path / "n"))
    assert result.faults == 1
    check_exact(result, 2)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_connections_may_break_at_any_moment(n: int, tmp_path: Path) -> None:
    note = str(tmp_path / "n")
    try:
        epochs = 10 * n // 100
        result = run(2, 2, 4, breaks=n, note=note, epochs=epochs)
        check_exact(result, 2, steps=20 * epochs)
        assert os.path.getsize(note + ".breaks") >= n
    finally:
        shutdown()  # its processes break connections


def lost(seen: list[Any]) -> list[str]:
    return [event.message for event in seen if isinstance(event, Fault) and event.rank is None]


@pytest.mark.thorough
@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("claim", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_server_that_is_killed_goes_on_from_its_snapshot_and_says_what_is_lost(
    i: int, claim: bool, tmp_path: Path
) -> None:
    """The second server has keys 64:128; the first one's updates can be computed again."""
    seen: list[Any] = []
    note = str(tmp_path / "n")
    result = run(2, 2, 2, claim=claim, fault="kill", at=f"move {i}", after=70, note=note, seen=seen)
    (said,) = lost(seen)
    keys, counts = result.arrays["keys"], result.arrays["counts"]
    if i == 1:
        gone = int(said.split("; ")[1].split()[0])
        assert said == f"server 1 (rank 3) was lost; {gone} updates of keys 64:128 since its last snapshot are gone"
        np.testing.assert_array_equal(keys[:64], 80)
        assert 0 <= gone < 80
        (left,) = {80 * (1000 * 39 + 4) // 2 - int(k) for k in keys[64:]}
        assert (left > 0) == (gone > 0)
    else:
        assert "are computed again" in said
        check_exact(result, 2, early=None)  # its clocks are those of the snapshot, for a while
    assert counts[PUSHED] == 80


@pytest.mark.thorough
def test_a_server_that_nobody_starts_again_ends_the_run_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="rank 3, which was lost"):
        run(2, 2, 2, fault="kill", at="move 1", after=3, times=100, note=str(tmp_path / "n"))


@pytest.mark.thorough
def test_a_server_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    seen: list[Any] = []
    result = run(2, 2, 2, fault="stop", at="move 0", after=30, note=str(tmp_path / "n"), seen=seen)
    assert "are computed again" in lost(seen)[0]
    check_exact(result, 2, early=None)


def test_a_run_without_workers_ends_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="all workers were lost"):
        run(1, 1, 2, fault="kill", after=1, times=100, note=str(tmp_path / "n"))


@pytest.mark.thorough
def test_a_worker_and_a_server_may_go_together(tmp_path: Path) -> None:
    """Whatever is lost of one range, the other one has every update once, and so have the counts."""
    for at in ("move 0", "move 1"):
        result = run(3, 2, 2, fault="kill", at=at, after=40, note=str(tmp_path / at), judges=False, also=15)
        assert result.faults == 3
        counts = result.arrays["counts"]
        assert counts[PUSHED] == 120
        np.testing.assert_array_equal(result.arrays["keys"][:64], 120)


@pytest.mark.thorough
def test_hosts_have_servers_too(tmp_path: Path) -> None:
    engine = hosts.Hosts(2, local=2, token_file=str(tmp_path / "token"))
    try:
        check_exact(run(2, 2, 2, engine=engine), 2)
        seen: list[Any] = []
        result = run(2, 1, 2, engine=engine, fault="kill", note=str(tmp_path / "n"), seen=seen)
        assert result.faults == 1
        check_exact(result, 2)
    finally:
        hosts.shutdown()


def test_the_plan_says_who_serves() -> None:
    ds = tutti.from_arrays(np.ones((80, 3)), np.arange(80) % 2)
    schema = ds.schema("classification")

    def plan(strategy: tutti.ParameterServer, engine: Any) -> Any:
        return draft_plan(ds, schema, Counting(), strategy, engine, 8)

    found = plan(tutti.ParameterServer(servers=2, staleness=1), Processes(3, transport="tcp"))
    assert [seat.role for seat in found.seats] == ["worker"] * 3 + ["server"] * 2
    assert [s for seat in found.seats for s in seat.shards] == list(range(8))
    for strategy, engine in [
        (tutti.ParameterServer(servers=2), Processes(3, transport="tcp")),
        (tutti.ParameterServer(servers=2, staleness=1), Processes(3)),
        (tutti.ParameterServer(servers=2, staleness=1), tutti.Threads(3)),
    ]:
        assert [seat.role for seat in plan(strategy, engine).seats] == [""] * 3
    with pytest.raises(PlanError, match="through 'gloo' all ranks call together"):
        plan(tutti.ParameterServer(staleness=1), Processes(2, transport="gloo"))
