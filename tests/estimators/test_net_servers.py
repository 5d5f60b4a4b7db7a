"""Nets under a parameter server over sockets: AllReduce's bits at staleness 0; else they learn as in shared memory."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, rows  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.strategies import server_optimizers  # noqa: E402

nn = torch.nn
pytestmark = [pytest.mark.timeout(180), pytest.mark.thorough]


def tcp(n):
    return Processes(n, transport="tcp")


def net(kind=MLP, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 2, "lr": 1e-2, "random_state": 0, **params})


def pushes(model):
    return sum(rank.counts.get("pushes", 0) for rank in model.report_.ranks)


@functools.cache
def of_all_reduce():
    return net(engine=Threads(1)).fit(*rows(MLP)).report_.sha256


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_staleness_0_gives_the_bits_of_all_reduce(servers, workers):
    model = net(strategy=tutti.ParameterServer(servers=servers), engine=tcp(workers)).fit(*rows(MLP))
    assert model.report_.sha256 == of_all_reduce()


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits():
    x, y = sklearn_datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return (x[order] / 16).astype(np.float32), y[order]


DIGITS = {"epochs": 20, "lr": 3e-3}


@functools.cache
def score_of_synchronous_training():
    x, y = digits()
    return net(dense, **DIGITS, engine=Threads(1)).fit(x[:1400], y[:1400]).score(x[1400:], y[1400:])


CASES = list(itertools.product((1, 2, 3), (1, 3), (2, math.inf)))
PAIRS = {(1, 3, math.inf), (2, 1, math.inf), (2, 3, 2), (3, 1, 2)}
"""Each number of workers, each pair of a number of servers and a bound; the rest of the grid is slow."""


@pytest.mark.parametrize(
    "workers, servers, staleness",
    [pytest.param(*case, marks=[] if case in PAIRS else [pytest.mark.slow]) for case in CASES],
)
def test_it_learns_as_well_as_synchronously(workers, servers, staleness):
    x, y = digits()
    strategy = tutti.ParameterServer(servers=servers, staleness=staleness)
    served = net(dense, **DIGITS, engine=tcp(workers), strategy=strategy).fit(x[:1400], y[:1400])
    assert served.score(x[1400:], y[1400:]) >= score_of_synchronous_training() - 0.01
    assert pushes(served) == served.n_iter_ * workers
    assert [h["epoch"] for h in served.history_] == list(range(1, 21))
    assert f"on {workers} worker{'s' * (workers > 1)} and {servers} server{'s' * (servers > 1)}" in str(served.report_)


def test_one_worker_takes_the_steps_of_shared_memory():
    x, y = rows(CNN)
    settings = {"optimizer": "adamw", "lr_schedule": "cosine", "clip_norm": 1.0, "n_shards": 2, "epochs": 3}
    strategy = tutti.ParameterServer(servers=3, staleness=1)
    one = net(CNN, **settings, strategy=strategy, engine=Threads(1)).fit(x, y)
    other = net(CNN, **settings, strategy=strategy, engine=tcp(1)).fit(x, y)
    for (name, a), b in zip(one.module_.state_dict().items(), other.module_.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_all_pause_to_validate_to_keep_and_to_stop_early(tmp_path):
    x, y = rows(MLP)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=7, every_minutes=None, keep=99)
    settings = {"validation": 0.2, "engine": tcp(2), "checkpoint": kept, "epochs": 4}
    strategy = tutti.ParameterServer(servers=2, staleness=3)
    served = net(**settings, strategy=strategy).fit(x, y)
    assert all(math.isfinite(h["valid_loss"]) for h in served.history_)
    assert [h["epoch"] for h in served.history_] == [1, 2, 3, 4]
    first = max(int(folder.name[5:]) for folder in tmp_path.iterdir())
    more = net(**{**settings, "epochs": 6}, strategy=strategy, resume=True).fit(x, y)
    assert pushes(more) == 2 * (more.n_iter_ - first)
    stopped = net(validation=0.2, patience=2, lr=0.5, epochs=60, engine=tcp(2), strategy=strategy).fit(x, y)
    assert len(stopped.history_) < 60
    best = min(stopped.history_, key=lambda h: h["valid_loss"])
    assert best["epoch"] <= len(stopped.history_) - 2


@pytest.mark.parametrize(
    "optimizer",
    [server_optimizers.SGD(lr=0.05), server_optimizers.Adam(lr=0.01), server_optimizers.Elastic(period=2)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_the_servers_have_optimizers_of_their_own(optimizer):
    x, y = rows(MLP)
    strategy = tutti.ParameterServer(staleness=math.inf, server_optimizer=optimizer, servers=2)
    model = net(strategy=strategy, engine=tcp(2), epochs=8, validation=0.1).fit(x, y)
    assert model.score(x, y) > 0.85
    assert pushes(model) == model.n_iter_ * 2


def test_the_plan_says_who_serves():
    said = str(net(strategy=tutti.ParameterServer(servers=2, staleness=4), engine=tcp(3)).explain(*rows(MLP)))
    assert "3 workers, 2 servers, 8 shards" in said
    assert said.count("server ") == 2
