"""Linear models under a parameter server: as good as with AllReduce, certified as well, and no worker is waited for."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
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
from tutti.errors import PlanError
from tutti.estimators._base import ConvergenceWarning
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.learners._problem import LinearProblem
from tutti.learners._sgd_serving import ServedSGD
from tutti.learners.sgd import SGD
from tutti.runtime.driver import train
from tutti.strategies import server_optimizers

R = np.random.default_rng(0)
N = 6000
DENSE = R.standard_normal((N, 20))
SPARSE = sp.random_array((N, 800), density=0.02, rng=R, format="csr")
ENGINES = [Threads(1), Threads(2), Threads(3), Processes(2)]
ENGINES += [pytest.param(Processes(n), marks=pytest.mark.thorough) for n in (1, 3)]
STALE = tutti.ParameterServer(staleness=2)
EPOCHS = 24  # of 6 steps: far from the minimum the gap tells of the order of pushes alone

pytestmark = pytest.mark.filterwarnings("ignore::tutti.estimators._base.ConvergenceWarning")


def target(x: Any) -> Any:
    u = x @ np.random.default_rng(1).standard_normal(x.shape[1])
    return u + 0.5 * u.std() * np.random.default_rng(2).standard_normal(N)


def pushes(model: Any) -> float:
    return sum(rank.counts["pushes"] for rank in model.report_.ranks)


def close(served: Any, synchronous: Any, within: float = 0.02) -> None:
    assert served.objective_ == pytest.approx(synchronous.objective_, rel=within)
    further = served.duality_gap_ - synchronous.duality_gap_
    assert abs(further) <= within * synchronous.objective_ + 0.05 * synchronous.duality_gap_


@pytest.fixture(scope="module")
def synchronous() -> dict[bool, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {s: logistic(s, tutti.AllReduce(), Threads(1)) for s in (False, True)}


def logistic(sparse: bool, strategy: Any, engine: Any, **more: Any) -> LogisticRegression:
    x = SPARSE if sparse else DENSE
    options = {"C": 0.01, "solver": "sgd", "tol": 1e-3, "max_iter": EPOCHS, **more}
    return LogisticRegression(**options, strategy=strategy, engine=engine).fit(x, target(x) > 0)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_it_comes_as_far_as_all_reduce(engine: Any, sparse: bool, synchronous: dict[bool, Any]) -> None:
    for staleness, claim, servers in ((1, True, 1), (math.inf, False, 3)):
        strategy = tutti.ParameterServer(staleness=staleness, claim=claim, servers=servers)
        served = logistic(sparse, strategy, engine)
        close(served, synchronous[sparse])
        assert [h["step"] for h in served.history_] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
        assert pushes(served) == 6 * EPOCHS * engine.n
        gaps = np.minimum.accumulate([h["gap"] for h in served.history_])
        np.testing.assert_array_equal(gaps, [h["gap"] for h in served.history_])


def test_staleness_0_gives_the_bits_of_all_reduce(synchronous: dict[bool, Any]) -> None:
    for sparse, model in synchronous.items():
        served = logistic(sparse, tutti.ParameterServer(servers=2), Threads(2))
        assert served.report_.sha256 == model.report_.sha256


def test_it_ends_as_soon_as_the_gap_is_proved() -> None:
    easy = {"solver": "sgd", "tol": 0.05, "max_iter": 100, "engine": Threads(2), "strategy": STALE}
    model = LogisticRegression(C=0.01, **easy).fit(DENSE, target(DENSE) > 0)
    exact = LogisticRegression(C=0.01, tol=1e-8).fit(DENSE, target(DENSE) > 0)
    assert len(model.history_) < 100
    assert model.objective_ - exact.objective_ <= model.duality_gap_ <= 0.05 * model.objective_


def test_a_warm_start_goes_on_from_the_weights() -> None:
    x, y = DENSE, target(DENSE) > 0
    options = {"solver": "sgd", "C": 0.01, "tol": 1e-3, "engine": Threads(2), "strategy": STALE}
    model = LogisticRegression(**options, max_iter=20).fit(x, y)
    reached = model.objective_
    assert model.set_params(warm_start=True, max_iter=1).fit(x, y).objective_ < 1.1 * reached
    assert LogisticRegression(**options, max_iter=1).fit(x, y).objective_ > 1.1 * reached


MODELS = [
    (LinearSVC(loss="hinge", C=0.01), 2),
    (LinearSVC(loss="squared_hinge", C=0.01, class_weight="balanced"), 3),
    (LinearSVC(loss="hinge", C=0.01, fit_intercept=False), 3),
    (LogisticRegression(C=0.01, fit_intercept=False, class_weight={0: 1.0, 1: 3.0}), 2),
    (Ridge(alpha=100.0), 0),
    (LinearRegression(), 0),
]


@pytest.mark.thorough
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("model", "classes"), MODELS, ids=[str(m)[:40] for m, _ in MODELS])
def test_every_loss_with_weights_of_rows(model: Any, classes: int, sparse: bool) -> None:
    x: Any = SPARSE if sparse else DENSE
    y = target(x)
    if classes:
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1]))
    weight = np.random.default_rng(3).random(N)
    found = []
    for strategy in (tutti.AllReduce(), STALE):
        options = {"solver": "sgd", "max_iter": EPOCHS, "tol": 1e-3, "engine": Threads(2), "strategy": strategy}
        found.append(type(model)(**{**model.get_params(), **options}).fit(x, y, weight))
    if math.isfinite(found[0].duality_gap_):
        close(found[1], found[0])
    np.testing.assert_allclose(found[1].objective_, found[0].objective_, rtol=0.02)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("optimizer", [server_optimizers.Adam(lr=0.03), server_optimizers.Elastic(period=2)], ids=repr)
def test_the_server_may_have_an_optimizer_of_its_own(
    sparse: bool, optimizer: Any, synchronous: dict[bool, Any]
) -> None:
    strategy = tutti.ParameterServer(staleness=4, server_optimizer=optimizer)
    model = logistic(sparse, strategy, Threads(2))
    assert model.objective_ < 1.1 * synchronous[sparse].objective_
    assert model.duality_gap_ >= 0


@pytest.mark.parametrize("optimizer", [None, server_optimizers.SGD(lr=0.1), server_optimizers.Elastic()], ids=str)
def test_a_model_is_saved_with_its_strategy(optimizer: Any, tmp_path: Path) -> None:
    x, y = DENSE[:200], target(DENSE)[:200]
    strategy = tutti.ParameterServer(staleness=math.inf, server_optimizer=optimizer)
    model = Ridge(alpha=10.0, max_iter=2, strategy=strategy).fit(x, y)
    model.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    assert again.get_params()["strategy"] == strategy
    np.testing.assert_array_equal(again.coef_, model.coef_)


def test_rows_that_are_streamed_stay_with_their_worker() -> None:
    rows = from_arrays(DENSE, target(DENSE) > 0).cached(None)
    model = LogisticRegression(solver="sgd", C=0.01, max_iter=2, tol=1e-3, engine=Threads(2), strategy=STALE).fit(rows)
    assert pushes(model) == 24


def test_more_shards_than_rows() -> None:
    x, y = DENSE[:10], target(DENSE)[:10] > 0
    model = LogisticRegression(solver="sgd", max_iter=4, n_shards=30, engine=Threads(3), strategy=STALE).fit(x, y)
    assert len(model.history_) == 4
    assert model.score(x, y) > 0.5


@dataclass(frozen=True)
class Dying(SGD):
    """Its first worker to push so many times is killed."""

    here: int = 0
    note: str = ""

    def served(self, whole: bool) -> ServedSGD:
        return DyingServed(self, whole)


class DyingServed(ServedSGD):
    left = 9

    def work(self, *arguments: Any) -> Any:
        self.left -= 1
        sgd: Any = self.sgd
        if self.left < 0 and os.getpid() != sgd.here:
            try:
                Path(sgd.note).touch(exist_ok=False)
            except FileExistsError:
                return super().work(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(*arguments)


@dataclass(frozen=True)
class NoneAgain(tutti.ParameterServer):
    """Lost workers are not started again."""

    def plan(self, *arguments: Any) -> Any:
        return dataclasses.replace(super().plan(*arguments), restarts=0)


@pytest.mark.thorough
@pytest.mark.parametrize("again", [True, pytest.param(False, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_others_go_on_without_a_worker_that_was_killed(
    again: bool, sparse: bool, tmp_path: Path, synchronous: dict[bool, Any]
) -> None:
    x: Any = SPARSE if sparse else DENSE
    rows = from_arrays(x, (target(x) > 0).astype(np.int32))
    learner = Dying(LinearProblem(C=0.01), tol=1e-3, max_iter=EPOCHS, here=os.getpid(), note=str(tmp_path / "note"))
    strategy = (tutti.ParameterServer if again else NoneAgain)(staleness=1)
    with pytest.warns(RuntimeWarning, match="was lost"):
        result = train(
            learner, rows, schema=rows.schema("classification"), strategy=strategy, engine=Processes(3), seed=0
        )
    assert len(result.reports) == (3 if again else 2)
    assert [r.step for r in result.history] == [6 * epoch for epoch in range(1, EPOCHS + 1)]
    assert result.progress.objective == pytest.approx(synchronous[sparse].objective_, rel=0.03)


def test_what_makes_no_sense_is_refused_before_the_start() -> None:
    x, y = DENSE[:50], target(DENSE)[:50]
    for solver in ("newton", "lbfgs"):
        with pytest.raises(PlanError, match=r"solver='sgd'.* write strategy="):
            LogisticRegression(solver=solver, strategy=STALE).fit(x, y > 0)
    with pytest.raises(PlanError, match="use LinearSVC"):
        LogisticRegression(strategy=STALE).fit(x, np.digitize(y, [-1, 1]))


def test_the_planner_picks_gradient_steps_and_says_why() -> None:
    x, y = DENSE[:50], target(DENSE)[:50]
    for model, label in ((LogisticRegression(strategy=STALE), y > 0), (Ridge(strategy=STALE), y)):
        plan = model.explain(x, label).plan
        assert plan.learner == "SGD"
        assert "as updates come" in plan.reason
        assert plan.tolerant
    assert LogisticRegression(strategy=tutti.ParameterServer()).explain(x, y > 0).plan.learner == "SampledNewton"
