"""Nets under a parameter server: AllReduce's bits at staleness 0; else they learn, lose nothing, and stop in time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, rows, wide  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import ParameterError, PlanError  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.strategies import server_optimizers  # noqa: E402

nn = torch.nn


def net(kind=MLP, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 2, "lr": 1e-2, "random_state": 0, **params})


def pushes(model):
    return sum(rank.counts["pushes"] for rank in model.report_.ranks)


@pytest.fixture(scope="module")
def reference():
    return {kind: net(kind).fit(*rows(kind)).report_.sha256 for kind in (MLP, wide)}


@pytest.mark.parametrize("servers", [pytest.param(n, marks=[] if n == 2 else pytest.mark.thorough) for n in (1, 2, 3)])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_staleness_0_gives_the_bits_of_all_reduce_whatever_the_servers(servers, workers, reference):
    for kind, sha in reference.items():
        strategy = tutti.ParameterServer(servers=servers)
        assert net(kind, strategy=strategy, engine=Threads(workers)).fit(*rows(kind)).report_.sha256 == sha


@pytest.mark.thorough
@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_staleness_0_gives_the_bits_of_all_reduce_between_processes(servers, workers, reference):
    for kind, sha in reference.items():
        strategy = tutti.ParameterServer(servers=servers)
        assert net(kind, strategy=strategy, engine=Processes(workers)).fit(*rows(kind)).report_.sha256 == sha


def digits():
    x, y = sklearn_datasets.load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


ENGINES = [Threads(2), *(pytest.param(Threads(n), marks=pytest.mark.thorough) for n in (1, 3))]
ENGINES += [pytest.param(Processes(n), marks=pytest.mark.thorough) for n in (1, 2, 3)]


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_it_learns_as_well_as_synchronously(engine):
    x, y = digits()
    new = np.arange(len(x)) % 2 == 0  # the last rows are by other hands: too few to tell 1 % apart
    settings = {"epochs": 40, "lr": 1e-2, "lr_schedule": "cosine", "engine": engine}  # until it has converged
    score = net(dense, **settings).fit(x[~new], y[~new]).score(x[new], y[new])
    scores = []
    for staleness in (1, 4, math.inf):
        for claim in (True, False):
            strategy = tutti.ParameterServer(servers=2, staleness=staleness, claim=claim)
            served = net(dense, **settings, strategy=strategy).fit(x[~new], y[~new])
            scores.append(served.score(x[new], y[new]))
            assert pushes(served) == served.n_iter_ * engine.n
            assert [h["epoch"] for h in served.history_] == list(range(1, 41))
    assert np.mean(scores) >= score - 0.01
    assert min(scores) >= score - 0.02  # one row of these is 0.1 %, and a fit is one draw


def test_one_worker_takes_the_steps_of_plain_torch():
    x, y = rows(MLP)
    settings = {
        "module__dropout": 0.0,
        "engine": Threads(1),
        "n_shards": 1,
        "optimizer": "adamw",
        "lr_schedule": "cosine",
    }
    alone = net(**settings).fit(x, y)
    served = net(**settings, strategy=tutti.ParameterServer(servers=3, staleness=1)).fit(x, y)
    for a, b in zip(alone.module_.parameters(), served.module_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert served.history_[-1]["lr"] == alone.history_[-1]["lr"]


def test_batch_norm_clipping_and_weights_of_rows():
    x, y = rows(CNN)
    weight = np.random.default_rng(0).random(len(y))
    strategy = tutti.ParameterServer(staleness=2, claim=False)
    model = net(CNN, strategy=strategy, engine=Threads(2), clip_norm=1.0, epochs=3).fit(x, y, weight)
    norm = model.module_.features[1]
    assert int(norm.num_batches_tracked) == model.n_iter_
    assert 0 < float(norm.running_var.mean()) < 10
    assert model.score(x, y) > 0.8


@pytest.mark.parametrize("engine", [Threads(2), pytest.param(Processes(2), marks=pytest.mark.thorough)])
def test_all_pause_to_validate_to_keep_and_to_stop_early(engine, tmp_path):
    x, y = rows(MLP)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=7, every_minutes=None, keep=99)
    settings = {"validation": 0.2, "engine": engine, "checkpoint": kept, "epochs": 4}
    served = net(**settings, strategy=tutti.ParameterServer(staleness=3)).fit(x, y)
    assert all(math.isfinite(h["valid_loss"]) for h in served.history_)
    assert [h["epoch"] for h in served.history_] == [1, 2, 3, 4]
    assert {int(f.name[5:]) % 7 for f in tmp_path.iterdir() if not _best(f)} == {0}
    first = max(int(f.name[5:]) for f in tmp_path.iterdir())
    more = net(**{**settings, "epochs": 6}, strategy=tutti.ParameterServer(staleness=3), resume=True).fit(x, y)
    assert pushes(more) == 2 * (more.n_iter_ - first)
    stopped = net(
        validation=0.2, patience=2, lr=0.5, epochs=60, engine=engine, strategy=tutti.ParameterServer(staleness=3)
    )
    assert len(stopped.fit(x, y).history_) < 60


def _best(folder):
    return '"best": true' in (folder / "checkpoint.json").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "optimizer",
    [
        server_optimizers.SGD(lr=0.05),
        server_optimizers.Adagrad(lr=0.05),
        {"type": "Adam", "lr": 0.01},
        server_optimizers.Elastic(period=2),
    ],
    ids=lambda o: o["type"] if isinstance(o, dict) else type(o).__name__,
)
@pytest.mark.parametrize("engine", [Threads(2), pytest.param(Processes(3), marks=pytest.mark.thorough)])
def test_the_server_has_optimizers_of_its_own(optimizer, engine):
    x, y = rows(MLP)
    strategy = tutti.ParameterServer(staleness=math.inf, server_optimizer=optimizer, servers=2)
    model = net(strategy=strategy, engine=engine, epochs=16, validation=0.1).fit(x, y)
    assert model.score(x, y) > 0.85
    assert pushes(model) == model.n_iter_ * engine.n


class Dying(MLP):
    """A net whose first process to see so many batches in a worker is killed."""

    def __init__(self, here, note):
        super().__init__()
        self.here, self.note, self.left = here, note, 9

    def forward(self, x):
        self.left -= self.training
        if self.left < 0 and os.getpid() != self.here:
            try:
                Path(self.note).touch(exist_ok=False)
            except FileExistsError:
                return super().forward(x)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@dataclasses.dataclass(frozen=True)
class NoneAgain(tutti.ParameterServer):
    """Lost workers are not started again."""

    def plan(self, schema, learner, draft):
        return dataclasses.replace(super().plan(schema, learner, draft), restarts=0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "staleness, claim, again",
    [  # every pair of two of the three; the rest of the grid is slow
        pytest.param(s, c, a, marks=[] if ((s == 1) == c) == a else pytest.mark.slow)
        for s, c, a in itertools.product((1, math.inf), (True, False), (True, False))
    ],
)
def test_others_go_on_without_a_worker_that_was_killed_and_it_may_come_back(staleness, claim, again, tmp_path):
    options = {"module__here": os.getpid(), "module__note": str(tmp_path / "note"), "validation": 0.1, "epochs": 12}
    strategy = (tutti.ParameterServer if again else NoneAgain)(staleness=staleness, claim=claim)
    with pytest.warns(RuntimeWarning, match="was lost"):
        model = net(Dying, strategy=strategy, engine=Processes(3), **options).fit(*rows(MLP))
    assert [h["epoch"] for h in model.history_] == list(range(1, 13))
    assert len(model.report_.ranks) == (3 if again else 2)
    assert model.score(*rows(MLP)) > 0.8


def test_what_it_cannot_serve_is_named_before_the_start():
    x, y = rows(MLP)
    stale = tutti.ParameterServer(staleness=1)

    def own(groups):
        return torch.optim.LBFGS(groups)

    with pytest.raises(PlanError, match="treat every number by itself"):
        net(optimizer=own, strategy=stale, engine=Threads(2)).explain(x, y)
    with pytest.raises(PlanError, match="neural nets"):
        tutti.LogisticRegression(solver="newton", strategy=stale).fit(x, y)
    with pytest.raises(PlanError, match="see the same memory"):
        net(strategy=stale, engine=Processes(2, transport="gloo")).fit(x, y)
    said = str(net(strategy=tutti.ParameterServer(staleness=4), engine=Threads(2)).explain(x, y))
    assert "not promised" in said
    assert "more than 4 steps ahead" in said
    assert "same bits" not in said


@pytest.mark.parametrize(
    "bad",
    [
        {"servers": 0},
        {"servers": 1.5},
        {"staleness": -1},
        {"staleness": 1.5},
        {"staleness": math.nan},
        {"staleness": "many"},
        {"staleness": True},
        {"staleness": 1, "server_optimizer": "adam"},
        {"staleness": 1, "server_optimizer": {"type": "Adamw"}},
        {"staleness": 1, "server_optimizer": {"type": "Adam", "rate": 1}},
        {"staleness": 0, "server_optimizer": {"type": "Adam"}},
    ],
)
def test_bad_parameters_are_named(bad):
    with pytest.raises(ParameterError):
        tutti.ParameterServer(**bad)


@pytest.mark.parametrize("bad", [{"lr": 0}, {"betas": (0.9, 1.0)}])
def test_bad_parameters_of_server_optimizers_are_named(bad):
    with pytest.raises(ParameterError):
        server_optimizers.Adam(**bad)
    with pytest.raises(ParameterError):
        server_optimizers.Elastic(period=0)


def test_inf_may_be_written_as_text():
    assert tutti.ParameterServer(staleness="inf") == tutti.ParameterServer(staleness=math.inf)
