"""Recorded asynchronous runs of linear models: one process repeats them to the same bits."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tests.strategies.test_network_linear import Dying, dying
from tests.strategies.test_served_linear import DENSE, SPARSE, logistic, target
from tutti.data import from_arrays
from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.errors import InputError, ParameterError, PlanError
from tutti.estimators._recorded import parted
from tutti.learners._problem import LinearProblem
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import train
from tutti.strategies import server_optimizers

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::tutti.estimators._base.ConvergenceWarning")]
FEW = 10  # epochs
BOTH = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
ENGINES = [Threads(3), pytest.param(Processes(2), marks=pytest.mark.thorough)]
ENGINES += [Processes(1, transport="tcp"), Processes(3, transport="tcp")]


def check(folder: Path, sparse: bool, engine: Any, *server: Any, **more: Any) -> None:
    strategy = tutti.ParameterServer(*server, record=str(folder))
    served = logistic(sparse, strategy, engine, max_iter=FEW, **more)
    again = logistic(sparse, tutti.Replay(str(folder)), Threads(1), max_iter=FEW, **more)
    assert again.report_.sha256 == served.report_.sha256
    for name in ("step", "objective", "gap"):
        assert [h[name] for h in again.history_] == [h[name] for h in served.history_]


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(("staleness", "servers"), [(1, 1), (math.inf, 3)])
def test_one_process_repeats_what_workers_did(
    staleness: float, servers: int, engine: Any, sparse: bool, tmp_path: Path
) -> None:
    check(tmp_path, sparse, engine, servers, staleness)


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("engine", [Threads(2), Processes(2, transport="tcp")], ids=str)
def test_an_optimizer_of_the_server_is_repeated(engine: Any, sparse: bool, tmp_path: Path) -> None:
    check(tmp_path, sparse, engine, 2, 4, server_optimizers.Adam(lr=0.03))


@pytest.mark.thorough
def test_several_classes_are_repeated(tmp_path: Path) -> None:
    x: Any = SPARSE[:1003]
    y = np.digitize(target(SPARSE)[:1003], [-1.0, 1.0])
    found = []
    for strategy, engine in (
        (tutti.ParameterServer(3, 2, record=str(tmp_path)), Processes(3, transport="tcp")),
        (tutti.Replay(str(tmp_path)), Threads(1)),
    ):
        options: Any = {"strategy": strategy, "engine": engine, "n_shards": 7}
        found.append(tutti.LinearSVC(C=0.1, solver="sgd", tol=1e-3, max_iter=8, **options).fit(x, y).report_.sha256)
    assert found[0] == found[1]


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("claim", [True, False])
def test_a_run_over_sockets_that_lost_a_worker_is_repeated(claim: bool, sparse: bool, tmp_path: Path) -> None:
    """What it had begun at one server, somebody else ended at the other one."""
    folder = tmp_path / "run"
    engine = Processes(3, transport="tcp")
    result, _ = dying(engine, sparse, tmp_path / "note", "work", claim=claim, epochs=FEW, record=str(folder))
    tutti.ParameterServer(staleness=1, record=str(folder)).seal(6 * FEW, model_sha256(result.arrays))
    assert model_sha256(again(sparse, folder, tmp_path)) == model_sha256(result.arrays)


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("i", [0, 1])
def test_a_run_over_sockets_that_lost_a_server_is_repeated(i: int, sparse: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    engine = Processes(2, transport="tcp")
    result, _ = dying(engine, sparse, tmp_path / "note", f"move {i}", after=90, epochs=FEW, record=str(folder))
    tutti.ParameterServer(staleness=1, record=str(folder)).seal(6 * FEW, model_sha256(result.arrays))
    found = again(sparse, folder, tmp_path, f"move {i}", 90)
    assert model_sha256(found) == model_sha256(result.arrays)


def again(sparse: bool, folder: Path, tmp_path: Path, at: str = "work", after: int = 9) -> dict[str, Any]:
    """Repeat what `dying` did and return the model's arrays."""
    x: Any = SPARSE if sparse else DENSE
    rows = from_arrays(x, (target(x) > 0).astype(np.int32))
    note = str(tmp_path / "note")
    learner = Dying(LinearProblem(C=0.01), 1e-3, FEW, here=os.getpid(), note=note, at=at, after=after)
    strategy = tutti.Replay(str(folder))
    schema = rows.schema("classification")
    return parted(train(learner, rows, schema=schema, strategy=strategy, engine=Threads(1), seed=0).arrays)[0]


def test_it_stops_at_a_step_and_refuses_what_differs(tmp_path: Path) -> None:
    served = logistic(True, tutti.ParameterServer(staleness=1, record=str(tmp_path)), Threads(2))
    last = logistic(True, tutti.Replay(str(tmp_path), to=served.n_iter_ - 1), Threads(1))
    assert np.isfinite(last.coef_).all()
    with pytest.raises(InputError, match="a setting that decides the bits"):
        logistic(True, tutti.Replay(str(tmp_path)), Threads(1), n_shards=8).set_params(C=0.02).fit(
            SPARSE, target(SPARSE) > 0
        )
    with pytest.raises(InputError, match="its rows are not these"):
        logistic(True, tutti.Replay(str(tmp_path)), Threads(1)).fit(SPARSE * 2, target(SPARSE) > 0)
    assert DENSE.shape[0] == SPARSE.shape[0]


def test_several_fits_are_not_recorded_over_one_another(tmp_path: Path) -> None:
    for strategy in (tutti.ParameterServer(staleness=1, record=str(tmp_path)), tutti.Replay(str(tmp_path))):
        with pytest.raises(ParameterError, match="a record is of one"):
            tutti.LinearSVC(probability=True, solver="sgd", strategy=strategy).fit(DENSE, target(DENSE) > 0)
    assert not list(tmp_path.iterdir())


def test_a_loss_without_gradient_steps_has_no_record(tmp_path: Path) -> None:
    y = np.digitize(target(DENSE), [-1.0, 1.0])
    with pytest.raises(PlanError, match="Replay repeats recorded runs"):
        tutti.LogisticRegression(strategy=tutti.Replay(str(tmp_path))).fit(DENSE, y)
