"""Dual updates under a parameter server: CoCoA's optimum with its certificate, whatever happens to the workers."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import tutti
from tutti.data import from_arrays
from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.errors import PlanError, RankError
from tutti.estimators._base import ConvergenceWarning
from tutti.estimators.linear import LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.learners._dual_serving import ServedDual
from tutti.learners._problem import LinearProblem
from tutti.learners.dual import DualCoordinateDescent
from tutti.runtime.driver import train
from tutti.strategies import server_optimizers
from tutti.types import Arrays, Update

R = np.random.default_rng(0)
N = 800
DENSE = R.standard_normal((N, 30))
SPARSE = sp.random_array((N, 400), density=0.03, rng=R, format="csr")
ENGINES = [Threads(2), pytest.param(Processes(2), marks=pytest.mark.thorough)]
ENGINES += [
    pytest.param(engine, marks=pytest.mark.slow) for engine in (Threads(1), Threads(3), Processes(1), Processes(3))
]
STALE = tutti.ParameterServer(staleness=2)
TOL = 1e-6
MODELS = {
    "hinge": LinearSVC(loss="hinge", C=0.002),
    "squared_hinge": LinearSVC(loss="squared_hinge", C=0.03),
    "logistic": LogisticRegression(C=0.1),
}


def target(x: Any) -> Any:
    u = x @ np.random.default_rng(1).standard_normal(x.shape[1])
    return u + 0.5 * u.std() * np.random.default_rng(2).standard_normal(len(u))


def fitted(model: Any, x: Any, y: Any, strategy: Any, engine: Any, weight: Any = None, **more: Any) -> Any:
    options = {"solver": "dual", "tol": TOL, "strategy": strategy, "engine": engine, **more}
    return type(model)(**{**model.get_params(), **options}).fit(x, y, weight)


def rows(sparse: bool) -> tuple[Any, Any]:
    x = SPARSE if sparse else DENSE
    return x, target(x) > 0


def pushes(model: Any) -> float:
    return sum(rank.counts["pushes"] for rank in model.report_.ranks)


@pytest.fixture(scope="module")
def exact() -> dict[tuple[str, bool], float]:
    """Return the optima, as another solver finds them."""
    found = {}
    for name, model in MODELS.items():
        for sparse in (False, True):
            other = type(model)(**{**model.get_params(), "solver": "newton", "tol": 1e-9, "max_iter": 200})
            found[name, sparse] = other.fit(*rows(sparse)).objective_
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", MODELS)
def test_it_ends_at_the_optimum_with_an_honest_certificate(
    name: str, sparse: bool, engine: Any, exact: dict[tuple[str, bool], float]
) -> None:
    x, y = rows(sparse)
    synchronous = fitted(MODELS[name], x, y, tutti.CoCoA(), Threads(1))
    for staleness, claim in ((1, True), (4, False), (math.inf, True)):
        served = fitted(MODELS[name], x, y, tutti.ParameterServer(staleness=staleness, claim=claim), engine)
        assert served.duality_gap_ <= TOL * served.objective_
        assert served.objective_ == pytest.approx(synchronous.objective_, rel=TOL)
        assert served.objective_ - exact[name, sparse] * (1 + 1e-9) <= served.duality_gap_
        assert served.history_[-1]["gap"] == served.duality_gap_
        assert pushes(served) == served.n_iter_ * engine.n


def test_staleness_0_gives_the_bits_of_cocoa() -> None:
    for sparse in (False, True):
        x, y = rows(sparse)
        models: list[Any] = [
            fitted(MODELS["logistic"], x, y, strategy, Threads(n))
            for strategy, n in ((tutti.CoCoA(), 1), (tutti.ParameterServer(servers=2), 1), (tutti.ParameterServer(), 3))
        ]
        assert len({model.report_.sha256 for model in models}) == 1
        assert models[1].plan_.strategy == "ParameterServer"


OTHERS = [
    (LinearSVC(loss="squared_hinge", C=0.01, class_weight="balanced"), 3),
    (LinearSVC(loss="hinge", C=0.003, fit_intercept=False), 3),
    (LogisticRegression(C=0.1, fit_intercept=False, class_weight={0: 1.0, 1: 3.0}), 2),
    (Ridge(alpha=100.0), 0),
]


@pytest.mark.thorough
@pytest.mark.parametrize("sparse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["dense", "sparse"])
@pytest.mark.parametrize(("model", "classes"), OTHERS, ids=[str(m)[:40] for m, _ in OTHERS])
def test_many_outputs_weights_of_rows_and_other_intercepts(model: Any, classes: int, sparse: bool) -> None:
    x: Any = SPARSE if sparse else DENSE
    y = target(x)
    if classes:
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1]))
    weight = np.random.default_rng(3).integers(0, 3, N)
    synchronous = fitted(model, x, y, tutti.CoCoA(), Threads(1), weight)
    served = fitted(model, x, y, STALE, Threads(3), weight)
    assert served.duality_gap_ <= TOL * served.objective_
    assert served.objective_ == pytest.approx(synchronous.objective_, rel=TOL)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [Threads(3), Processes(2)], ids=str)
def test_ragged_and_empty_shards(engine: Any) -> None:
    for n, n_shards in ((10, 30), (131, 7), (131, 40)):
        x, y = DENSE[:n], target(DENSE)[:n] > 0
        other = LogisticRegression(C=0.1, solver="newton", tol=1e-9).fit(x, y)
        served = fitted(MODELS["logistic"], x, y, STALE, engine, n_shards=n_shards)
        assert served.duality_gap_ <= TOL * served.objective_
        assert served.objective_ == pytest.approx(other.objective_, rel=TOL)


def test_single_precision() -> None:
    x, y = rows(True)
    served = fitted(MODELS["hinge"], x.astype(np.float32), y, STALE, Threads(2), tol=1e-3)
    assert served.duality_gap_ <= 1e-3 * served.objective_
    assert served.plan_.tolerant


def on_disk(folder: Path) -> Any:
    """Return rows that every pass reads anew, as arrays never are."""
    x, y = rows(False)
    np.savetxt(folder / "rows.csv", np.column_stack([y, x]), fmt="%.6g", delimiter=",")
    return tutti.read_csv(str(folder / "rows.csv"), label="f0", dtype="float64", header=False).cached(None)


def test_rows_that_are_streamed_stay_with_their_worker(tmp_path: Path) -> None:
    served = fitted(MODELS["logistic"], on_disk(tmp_path), None, STALE, Threads(2))
    assert served.duality_gap_ <= TOL * served.objective_
    assert pushes(served) == 2 * served.n_iter_


def test_a_fit_that_runs_out_of_epochs_says_how_far_it_came() -> None:
    x, y = rows(False)
    with pytest.warns(ConvergenceWarning):
        served = fitted(MODELS["hinge"], x, y, STALE, Threads(2), tol=1e-9, max_iter=3)
    assert 1e-9 * served.objective_ < served.duality_gap_ < math.inf


# workers that are slow, and workers that die


@dataclass(frozen=True)
class Faulty(DualCoordinateDescent):
    """The first worker whose count runs out, at a place, is killed there; or it is slow from the start.

    Parameters
    ----------
    at : "work" (before anything), "search" (before it moves duals), "apply" (when it has moved duals, not w), "judge",
        or "slow".
    """

    at: str = ""
    after: int = 9
    here: int = 0
    note: str = ""

    def served(self, whole: bool) -> ServedDual:
        return FaultyServed(self, whole)

    def line_search(self, shared: Arrays, merged: Update) -> Any:
        self.strike("search")
        return super().line_search(shared, merged)

    def apply(self, shared: Arrays, merged: Update, scale: Any) -> Arrays:
        if merged.kind == "dual":
            self.strike("apply")
        return super().apply(shared, merged, scale)

    def strike(self, at: str) -> None:
        if at != self.at or os.getpid() == self.here:
            return
        _CALLS[self.note] = _CALLS.get(self.note, 0) + 1
        if _CALLS[self.note] == self.after:
            try:
                Path(self.note).touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


_CALLS: dict[str, int] = {}


class FaultyServed(ServedDual):
    slow: bool | None = None

    def work(self, *arguments: Any) -> Any:
        dual: Any = self.dual
        dual.strike("work")
        if dual.at == "slow":
            if self.slow is None:
                try:
                    Path(dual.note).touch(exist_ok=False)
                    self.slow = True
                except FileExistsError:
                    self.slow = False
            if self.slow:
                time.sleep(0.005)  # an item takes a fraction of that
        return super().work(*arguments)

    def propose(self, *arguments: Any) -> Any:
        dual: Any = self.dual
        dual.strike("judge")
        return super().propose(*arguments)


@dataclass(frozen=True)
class NoneAgain(tutti.ParameterServer):
    """Lost workers are not started again."""

    def plan(self, *arguments: Any) -> Any:
        return dataclasses.replace(super().plan(*arguments), restarts=0)


def run(learner: Faulty, strategy: Any, engine: Any, sparse: bool) -> Any:
    x, y = rows(sparse)
    data = from_arrays(x, y.astype(np.int32))
    return train(learner, data, schema=data.schema("classification"), strategy=strategy, engine=engine, seed=0)


@pytest.mark.thorough
@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("at", ["work", "search", "apply", "judge"])
@pytest.mark.parametrize("loss", ["logistic", pytest.param("hinge", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_leaves_a_certified_fit(loss: Any, at: str, again: bool, tmp_path: Path) -> None:
    sparse = loss == "hinge"
    after = 1 if at == "judge" else 9
    problem = LinearProblem(loss, C=0.03)
    learner = Faulty(problem, TOL, 1000, at, after, os.getpid(), str(tmp_path / "note"))
    alone = run(dataclasses.replace(learner, at=""), tutti.CoCoA(), Threads(1), sparse).progress
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = run(learner, (tutti.ParameterServer if again else NoneAgain)(staleness=1), Processes(3), sparse)
    said = " ".join(str(w.message) for w in heard)
    assert "was lost" in said
    assert ("half applied" in said) == (at in ("search", "apply"))
    assert len(result.reports) == (3 if again else 2)
    assert result.progress.converged
    assert result.progress.gap <= TOL * result.progress.objective
    assert result.progress.objective == pytest.approx(alone.objective, rel=TOL)


def streamed(after: int, tmp_path: Path) -> Any:
    """Lose a worker for good whose rows are not kept in memory."""
    learner = Faulty(LinearProblem(C=0.03), 1e-13, 40, "work", after, os.getpid(), str(tmp_path / "note"))
    data = on_disk(tmp_path)
    schema = data.schema("classification")
    return train(learner, data, schema=schema, strategy=NoneAgain(staleness=1), engine=Processes(2), seed=0)


@pytest.mark.filterwarnings("ignore:.*was lost:RuntimeWarning")
def test_rows_that_are_gone_before_a_certificate_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="whose rows nobody else can read"):
        streamed(1, tmp_path)


@pytest.mark.thorough
def test_rows_that_are_gone_end_the_fit_at_what_was_certified(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="was lost"):
        found = streamed(300, tmp_path).progress
    assert not found.converged
    assert 1e-13 * found.objective < found.gap < math.inf


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [Threads(2), Processes(2)], ids=str)
@pytest.mark.parametrize("claim", [True, False])
def test_one_worker_that_is_slow_does_not_change_the_result(claim: bool, engine: Any, tmp_path: Path) -> None:
    learner = Faulty(LinearProblem(C=0.03), TOL, 1000, "slow", note=str(tmp_path / "note"))
    alone = run(dataclasses.replace(learner, at=""), tutti.CoCoA(), Threads(1), True).progress
    for staleness in (1, math.inf):
        (tmp_path / "note").unlink(missing_ok=True)
        result = run(learner, tutti.ParameterServer(staleness=staleness, claim=claim), engine, True)
        assert result.progress.converged
        assert result.progress.objective == pytest.approx(alone.objective, rel=TOL)
        few, many = sorted(report.counts["pushes"] for report in result.reports)
        assert few < many if claim and staleness == math.inf else few <= many


# what it refuses


def test_what_cannot_be_served_is_refused_before_the_start() -> None:
    x, y = rows(False)
    cases = [
        ({"server_optimizer": server_optimizers.Adam()}, Threads(2), "server_optimizer would part them"),
        ({"record": "runs/a"}, Threads(2), "updates of a DualCoordinateDescent cannot be repeated"),
        ({}, Processes(2, transport="tcp"), "where workers see the same memory"),
    ]
    for options, engine, why in cases:
        with pytest.raises(PlanError, match=why):
            fitted(MODELS["logistic"], x, y, tutti.ParameterServer(staleness=1, **options), engine)


def test_the_plan_says_that_there_is_one_lock() -> None:
    x, y = rows(False)
    model = LogisticRegression(solver="dual", strategy=tutti.ParameterServer(servers=3, staleness=1))
    assert any("one lock" in note for note in model.explain(x, y).plan.notes)


def test_the_plan_has_room_for_shards_that_workers_take_over(tmp_path: Path) -> None:
    data, found = on_disk(tmp_path), []
    for claim, keep in ((False, "memory"), (True, "memory"), (False, None), (True, None)):
        strategy = tutti.ParameterServer(staleness=1, claim=claim)
        model = LogisticRegression(solver="dual", strategy=strategy, engine=Threads(3))
        found.append(model.explain(data.cached(keep)).plan.memory_bytes)
    cost = DualCoordinateDescent().cost(data.schema("classification"))
    assert found[1] - found[0] == 2 * 8 * cost.private_bytes
    assert found[2] == found[3] < found[0]
