"""Linear models under a parameter server over sockets: as in shared memory; sparse rows send what they touch alone."""

from __future__ import annotations

import math
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import tutti
from tests.strategies.test_served_linear import DENSE, EPOCHS, SPARSE, close, logistic, target
from tutti.data import from_arrays
from tutti.engines import hosts
from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.estimators._base import ConvergenceWarning
from tutti.estimators.linear import LogisticRegression
from tutti.learners._problem import LinearProblem
from tutti.learners._sgd_serving import ServedSGD
from tutti.learners.sgd import SGD
from tutti.runtime.checkpoint import newest, split
from tutti.runtime.driver import train
from tutti.strategies import server_optimizers
from tutti.strategies._changes import Changes
from tutti.types import Fault

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::tutti.estimators._base.ConvergenceWarning")]
BOTH = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def tcp(n: int, **more: Any) -> Processes:
    return Processes(n, transport="tcp", **more)


def served_by(engine: Any, sparse: bool, servers: int, staleness: float = 2, **more: Any) -> LogisticRegression:
    strategy = tutti.ParameterServer(servers, staleness, more.pop("optimizer", None), more.pop("claim", True))
    return logistic(sparse, strategy, engine, **more)


@pytest.fixture(scope="module")
def synchronous() -> Iterator[dict[bool, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield {s: logistic(s, tutti.AllReduce(), Threads(1)) for s in (False, True)}


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("servers", [1, 2, 3])
def test_staleness_0_gives_the_bits_of_all_reduce(
    servers: int, workers: int, sparse: bool, synchronous: dict[bool, Any]
) -> None:
    model = served_by(tcp(workers), sparse, servers, 0)
    assert model.report_.sha256 == synchronous[sparse].report_.sha256


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (2, 3), pytest.param(3, 2, marks=pytest.mark.thorough)])
def test_it_comes_as_far_as_all_reduce(workers: int, servers: int, sparse: bool, synchronous: dict[bool, Any]) -> None:
    for staleness, claim in ((1, True), (math.inf, False)):
        model = served_by(tcp(workers), sparse, servers, staleness, claim=claim)
        close(model, synchronous[sparse])
        assert [h["step"] for h in model.history_] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
        assert sum(rank.counts.get("pushes", 0) for rank in model.report_.ranks) == 6 * EPOCHS * workers
        gaps = np.minimum.accumulate([h["gap"] for h in model.history_])
        np.testing.assert_array_equal(gaps, [h["gap"] for h in model.history_])


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("servers", [1, 3])
def test_one_worker_takes_the_steps_of_shared_memory(servers: int, sparse: bool) -> None:
    """Weights that come back as they were changed are those that one worker would have read in place."""
    one = served_by(Threads(1), sparse, servers)
    other = served_by(tcp(1), sparse, servers)
    assert other.report_.sha256 == one.report_.sha256
    assert [h["gap"] for h in other.history_] == [h["gap"] for h in one.history_]


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("optimizer", [server_optimizers.Adam(lr=0.03), server_optimizers.Elastic(period=2)], ids=repr)
def test_the_servers_may_have_optimizers_of_their_own(
    sparse: bool, optimizer: Any, synchronous: dict[bool, Any]
) -> None:
    model = served_by(tcp(2), sparse, 2, 4, optimizer=optimizer)
    assert model.objective_ < 1.1 * synchronous[sparse].objective_
    assert model.duality_gap_ >= 0


@pytest.mark.thorough
@BOTH
def test_several_classes_and_shards_of_different_lengths(sparse: bool) -> None:
    x: Any = (SPARSE if sparse else DENSE)[:1003]
    y = np.digitize(target(SPARSE if sparse else DENSE)[:1003], [-1.0, 1.0])
    found = []
    for strategy, engine in ((tutti.AllReduce(), Threads(1)), (tutti.ParameterServer(3, 2), tcp(3))):
        options: Any = {"strategy": strategy, "engine": engine, "n_shards": 7}
        found.append(tutti.LinearSVC(C=0.1, solver="sgd", tol=1e-3, max_iter=8, **options).fit(x, y))
    np.testing.assert_allclose(found[1].objective_, found[0].objective_, rtol=0.03)


@pytest.mark.thorough
def test_more_shards_than_rows_and_more_servers_than_features() -> None:
    x, y = DENSE[:10, :3], target(DENSE)[:10] > 0
    strategy = tutti.ParameterServer(servers=3, staleness=2)
    model = LogisticRegression(solver="sgd", max_iter=4, n_shards=30, engine=tcp(3), strategy=strategy).fit(x, y)
    assert len(model.history_) == 4
    assert model.score(x, y) > 0.5


@pytest.mark.thorough
@BOTH
def test_a_training_goes_on_from_a_checkpoint_in_the_middle_of_an_epoch(sparse: bool, tmp_path: Path) -> None:
    """The learner's state, cut over servers in another way, goes on where it was."""
    x: Any = SPARSE if sparse else DENSE
    rows = from_arrays(x, (target(x) > 0).astype(np.int32))

    def trained(servers: int, epochs: int, **more: Any) -> Any:
        learner = SGD(LinearProblem(C=0.01), tol=1e-9, max_iter=epochs)
        strategy = tutti.ParameterServer(servers=servers, staleness=1)
        options: Any = {"schema": rows.schema("classification"), "strategy": strategy, "engine": tcp(1), "seed": 0}
        return train(learner, rows, **options, **more)

    kept = tutti.Checkpoint(str(tmp_path), every_steps=4, every_minutes=None, keep=99)
    trained(2, 2, checkpoint=kept)
    steps = {int(folder.name[5:]): folder for folder in tmp_path.iterdir()}
    assert {4, 8} <= set(steps)
    for step, folder in steps.items():
        if step > 8:
            shutil.rmtree(folder)
    more = trained(3, 5, start=dict(split(newest(str(tmp_path), "")[1])[0]))
    whole = trained(2, 5)
    assert [r.step for r in more.history] == [12, 18, 24, 30]
    assert more.progress.objective == pytest.approx(whole.progress.objective, rel=1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("servers", [1, 3])
def test_sparse_rows_send_and_get_what_they_touch(servers: int) -> None:
    """A million features, of which a step touches some thousands: the whole model travels at pauses alone."""
    rng = np.random.default_rng(0)
    n, d = 6144, 1_000_000
    indices = (rng.zipf(1.3, 20 * n) * 7919) % d
    x = sp.csr_array((np.ones(20 * n), indices, np.arange(0, 20 * n + 1, 20)), shape=(n, d))
    rows = from_arrays(x, (rng.random(n) > 0.5).astype(np.int32))
    sent = []
    for steps in (6, 24):
        learner = SGD(LinearProblem(C=0.01), max_iter=1, batch_size=n // steps)
        strategy = tutti.ParameterServer(servers=servers, staleness=2)
        options: Any = {"schema": rows.schema("classification"), "strategy": strategy, "engine": tcp(2), "seed": 0}
        sent.append(sum(rank.sent_bytes for rank in train(learner, rows, n_shards=2, **options).reports))
    steps_of_whole_models = 18 * 2 * 2 * 8 * d
    assert sent[1] - sent[0] < steps_of_whole_models / 50


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=12), st.integers(0, 12), st.integers(0, 20))
def test_what_has_changed_since_a_version_is_known(pushes: list[list[int]], have: int, most: int) -> None:
    changes = Changes(most)
    for version, touched in enumerate(pushes, 1):
        changes.note(version, np.array(touched, np.int32) if version != 5 else None)
    found = changes.since(have)
    if found is None:
        assert have >= len(pushes) or have < 5 <= len(pushes) or sum(map(len, pushes[have:])) >= most
    else:
        assert set(found.tolist()) == {j for touched in pushes[have:] for j in touched}


# ---- what is lost


@dataclass(frozen=True)
class Dying(SGD):
    """One process is killed, at "work" or at "move", when it has been there so many times."""

    here: int = 0
    note: str = ""
    at: str = "work"
    after: int = 9

    def served(self, whole: bool) -> ServedSGD:
        return DyingServed(self, whole)


class DyingServed(ServedSGD):
    calls = 0

    def work(self, *arguments: Any) -> Any:
        self._strike("work")
        return super().work(*arguments)

    def move(self, shared: Any, push: Any, i: int, share: float) -> None:
        self._strike(f"move {i}")
        super().move(shared, push, i, share)

    def _strike(self, at: str) -> None:
        sgd: Any = self.sgd
        if sgd.at != at or os.getpid() == sgd.here:
            return
        self.calls += 1
        if self.calls == sgd.after and not Path(sgd.note).exists():
            Path(sgd.note).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def dying(engine: Any, sparse: bool, note: Path, at: str, after: int = 9, epochs: int = EPOCHS, **more: Any) -> Any:
    x: Any = SPARSE if sparse else DENSE
    rows = from_arrays(x, (target(x) > 0).astype(np.int32))
    learner = Dying(LinearProblem(C=0.01), 1e-3, epochs, here=os.getpid(), note=str(note), at=at, after=after)
    strategy = tutti.ParameterServer(servers=2, staleness=1, **more)
    seen: list[Any] = []
    with pytest.warns(RuntimeWarning, match="was lost"):
        result = train(
            *(learner, rows),
            schema=rows.schema("classification"),
            strategy=strategy,
            engine=engine,
            seed=0,
            watch=seen.append,
        )
    return result, [event.message for event in seen if isinstance(event, Fault)]


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("claim", [True, False])
def test_a_worker_that_is_killed_is_started_again(
    claim: bool, sparse: bool, tmp_path: Path, synchronous: dict[bool, Any]
) -> None:
    result, _ = dying(tcp(3), sparse, tmp_path / "note", "work", claim=claim)
    assert [r.step for r in result.history] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
    assert result.progress.objective == pytest.approx(synchronous[sparse].objective_, rel=0.03)


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("i", [0, 1])
def test_a_server_that_is_killed_goes_on_from_its_snapshot(
    i: int, sparse: bool, tmp_path: Path, synchronous: dict[bool, Any]
) -> None:
    """Its sums are those of the steps that it has, not of those that it has lost."""
    result, said = dying(tcp(2), sparse, tmp_path / "note", f"move {i}", after=90)
    assert any("are computed again" in s if i == 0 else "since its last snapshot are gone" in s for s in said)
    assert [r.step for r in result.history] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
    assert result.progress.objective == pytest.approx(synchronous[sparse].objective_, rel=0.1)


@pytest.mark.thorough
def test_hosts_have_servers_of_linear_models_too(tmp_path: Path, synchronous: dict[bool, Any]) -> None:
    engine = hosts.Hosts(2, local=2, token_file=str(tmp_path / "token"))
    try:
        for sparse in (False, True):
            close(served_by(engine, sparse, 2), synchronous[sparse])
    finally:
        hosts.shutdown()
