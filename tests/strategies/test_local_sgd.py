"""Shards take steps of their own between merges; the model has the same bits for any number of workers."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, Deep, rows, wide  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import InputError, ParameterError, PlanError, RankError  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.learners.module import _device  # noqa: E402
from tutti.learners.module.batches import Deal  # noqa: E402
from tutti.strategies.local_sgd import LocalSGD  # noqa: E402

pytestmark = pytest.mark.timeout(300)
nn = torch.nn
SGD = {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}
ADAM = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.1}
ENGINES = [Threads(1), Threads(2), Processes(2), Threads(3), Threads(5), Processes(8), Processes(2, transport="gloo")]


def net(kind: Any, **params: Any) -> NeuralNetClassifier:
    return NeuralNetClassifier(kind, **{"batch_size": 128, "epochs": 2, "random_state": 0, **params})


def digest(kind: Any, **params: Any) -> str:
    return str(net(kind, **params).fit(*rows(kind)).report_.sha256)


def weights(fitted: NeuralNetClassifier) -> list[np.ndarray]:
    return [t.numpy() for t in fitted.module_.state_dict().values()]


def close(a: NeuralNetClassifier, b: NeuralNetClassifier, tolerance: float) -> None:
    for ours, theirs in zip(weights(a), weights(b), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# the same bits


@pytest.mark.parametrize("outer", ["average", "nesterov"])
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", [MLP, CNN])
def test_same_bits_for_any_number_of_workers(kind: Any, optimizer: Any, outer: str) -> None:
    same_bits(kind, ENGINES[:4:3], strategy=LocalSGD(3, outer), **optimizer)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [MLP, CNN])
def test_same_bits_on_every_engine(kind: Any) -> None:
    same_bits(kind, ENGINES, strategy=LocalSGD(3, "nesterov"), **ADAM)


def same_bits(kind: Any, engines: list[Any], **params: Any) -> None:
    found = {str(engine): digest(kind, engine=engine, **params) for engine in engines}
    assert len(set(found.values())) == 1, found


@pytest.mark.thorough
@pytest.mark.parametrize(
    "optimizer",
    [SGD, pytest.param({"optimizer": torch.optim.Adafactor, "lr": 0.01}, marks=pytest.mark.thorough)],
    ids=["sgd", "odd"],
)
@pytest.mark.parametrize("kind", [wide, Deep])
def test_same_bits_of_nets_with_rows_of_their_own_or_idle_weights(kind: Any, optimizer: Any) -> None:
    options = {**optimizer, "strategy": LocalSGD(3), "lr_schedule": "cosine", "accumulate": 2}
    assert digest(kind, engine=Threads(1), **options) == digest(kind, engine=Threads(3), **options)


@pytest.mark.thorough
@pytest.mark.parametrize("outer", ["average", "nesterov"])
@pytest.mark.parametrize(
    "first, then",
    [(Processes(3), Threads(2)), pytest.param(Threads(1), Processes(5), marks=pytest.mark.thorough)],
    ids=repr,
)
def test_a_resume_under_other_workers_gives_the_bits_of_no_interruption(
    tmp_path: Path, first: Any, then: Any, outer: str
) -> None:
    options = {**ADAM, "strategy": LocalSGD(3, outer), "lr_schedule": "cosine", "validation": 0.1, "epochs": 4}
    whole = digest(MLP, engine=Threads(1), **options)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None, keep=20)
    assert digest(MLP, engine=first, checkpoint=kept, **options) == whole
    names = sorted(f.name for f in tmp_path.iterdir())
    assert "step-000000022" in names  # of 7 steps an epoch; rounds end at 3, 6, 7, 10, 13, 14, ...
    for name in names[names.index("step-000000022") + 1 :]:
        for file in (tmp_path / name).iterdir():
            file.unlink()
        (tmp_path / name).rmdir()
    assert digest(MLP, engine=then, checkpoint=kept, resume=True, **options) == whole
    with pytest.raises(InputError, match="belongs to another job"):
        digest(MLP, engine=then, checkpoint=kept, resume=True, **{**options, "strategy": LocalSGD(4, outer)})


class Late(MLP):
    """A net that is slower on some workers than on others."""

    def forward(self, x: Any) -> Any:
        time.sleep(0.004 * (threading.get_ident() // 4096 % 2))
        return super().forward(x)


def test_a_slow_worker_changes_no_bit() -> None:
    options = {**SGD, "strategy": LocalSGD(4), "epochs": 1}
    assert digest(Late, engine=Threads(3), **options) == digest(MLP, engine=Threads(1), **options)


def test_a_loss_of_ones_own_is_trained_in_own_steps() -> None:
    x, y = rows(MLP)
    settings = {"batch_size": 100, "epochs": 3, "random_state": 0, "strategy": LocalSGD(4), **SGD}

    def loss(module: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(module(batch["x"]), batch["y"], reduction="none")

    found = [tutti.train(MLP, loss, (x, y), engine=Threads(n), **settings) for n in (1, 3)]
    assert found[0].report.sha256 == found[1].report.sha256
    assert found[0].history[-1]["loss"] < found[0].history[0]["loss"]


@pytest.mark.parametrize("kind", [MLP, CNN])
def test_a_net_apart_from_the_host_has_its_bits(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**ADAM, "strategy": LocalSGD(3, "nesterov"), "lr_schedule": "cosine", "validation": 0.1}
    host = digest(kind, engine=Threads(2), **options)
    monkeypatch.setattr(_device, "shares_memory", lambda device: False)
    assert digest(kind, engine=Threads(1), **options) == host


# the same numbers as others


@pytest.mark.thorough
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1003, 515, 5])
def test_one_local_step_of_plain_sgd_is_all_reduce(n: int, weighted: bool) -> None:
    x, y = rows(MLP, n=n)
    y[:3] = 0, 1, 2
    x, sample = x.astype(np.float64), np.random.default_rng(0).integers(0, 4, n).astype(float)
    sample[:3] = 1

    def fit(strategy: Any) -> NeuralNetClassifier:
        options = {"class_weight": "balanced"} if weighted else {}
        made = net(MLP().double(), optimizer="sgd", lr=0.05, weight_decay=0.01, strategy=strategy, **options)
        return made.set_params(batch_size=100, engine=Threads(2)).fit(x, y, sample if weighted else None)

    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    ours = fit(LocalSGD(local_steps=1))
    torch.random.set_rng_state(state)
    theirs = fit(tutti.AllReduce())
    close(ours, theirs, 1e-12)
    for a, b in zip(ours.history_, theirs.history_, strict=True):
        assert (a["step"], a["epoch"], a["loss"]) == (b["step"], b["epoch"], pytest.approx(b["loss"], rel=1e-12))


@pytest.mark.parametrize(
    "options",
    [
        {**ADAM, "lr_schedule": "cosine", "warmup_steps": 3, "param_groups": {"*bias": {"weight_decay": 0.0}}},
        {**SGD, "clip_norm": 0.1, "accumulate": 3, "validation": 0.2, "patience": 2, "epochs": 5},
        {**ADAM, "precision": "bf16", "clip_value": 0.01, "lr_schedule": "linear"},
        {"optimizer": torch.optim.Adafactor, "lr": 0.01},
    ],
    ids=["schedule", "clip", "bf16", "odd"],
)
def test_steps_of_the_only_shard_are_those_of_all_reduce(options: Any) -> None:
    """Also schedules, clipping, groups, dropout, validation and the events fall where they do there."""
    real = torch.float32 if "precision" in options else torch.float64
    torch.manual_seed(0)
    module = MLP().to(real)
    x, y = rows(MLP)
    x = x.astype(str(real).removeprefix("torch."))
    ours, theirs = (
        net(module, n_shards=1, engine=Threads(1), strategy=s, **options).fit(x, y)
        for s in (LocalSGD(4), tutti.AllReduce())
    )
    close(ours, theirs, 1e-12 if real == torch.float64 else 1e-4)
    for a, b in zip(ours.history_, theirs.history_, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "step" if "validation" in options else ""}:
            assert a[name] == pytest.approx(b[name], rel=1e-9 if real == torch.float64 else 1e-3), name


def by_hand(module: Any, x: Any, y: Any, weight: Any, n_shards: int, steps: int, outer: str) -> list[np.ndarray]:
    """Two epochs of local SGD with momentum, in a few lines of torch."""
    edges = [len(y) * s // n_shards for s in range(n_shards + 1)]
    deal = Deal(tuple(hi - lo for lo, hi in itertools.pairwise(edges)), 100)
    shared = [p.detach().clone() for p in module.parameters()]
    momenta: dict[int, Any] = {s: [None] * len(shared) for s in range(n_shards)}
    velocity = [torch.zeros_like(p) for p in shared]
    for _, first in itertools.product(range(2), range(0, deal.n_steps, steps)):
        changes, total = [torch.zeros_like(p) for p in shared], 0.0
        for s in range(n_shards):
            own, weighs = [p.clone().requires_grad_() for p in shared], 0.0
            for step in range(first, min(first + steps, deal.n_steps)):
                lo, hi = (edges[s] + i for i in deal.rows(step)[s])
                w = torch.from_numpy(weight[lo:hi])
                out = torch.func.functional_call(
                    module, dict(zip(dict(module.named_parameters()), own, strict=True)), torch.from_numpy(x[lo:hi])
                )
                each = nn.functional.cross_entropy(out, torch.from_numpy(y[lo:hi]), reduction="none")
                grads = torch.autograd.grad((each * w).sum() / w.sum(), own)
                for i, g in enumerate(grads):
                    m = momenta[s][i] = g if momenta[s][i] is None else 0.9 * momenta[s][i] + g
                    own[i] = (own[i] - 0.05 * m).detach().requires_grad_()
                weighs += float(w.sum())
            total += weighs
            for change, start, end in zip(changes, shared, own, strict=True):
                change += weighs * (start - end.detach())
        for i, change in enumerate(changes):
            mean = change / total
            velocity[i] = 0.9 * velocity[i] + mean
            shared[i] = shared[i] - (mean if outer == "average" else 0.7 * (mean + 0.9 * velocity[i]))
    return [p.numpy() for p in shared]


@pytest.mark.parametrize("outer", ["average", "nesterov"])
def test_it_does_what_the_same_by_hand_does(outer: str) -> None:
    x, y = rows(MLP, n=503)
    x, weight = x.astype(np.float64), np.random.default_rng(1).integers(1, 5, 503).astype(float)
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    made = net(module, n_shards=3, batch_size=100, shuffle=False, strategy=LocalSGD(4, outer), engine=Threads(2), **SGD)
    found = weights(made.fit(x, y, weight))
    for ours, theirs in zip(found, by_hand(module, x, y, weight, 3, 4, outer), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_shards_with_few_rows_or_none_take_part_by_their_weight() -> None:
    x, y = rows(MLP, n=21)
    options = {**SGD, "batch_size": 5, "n_shards": 16, "epochs": 3, "strategy": LocalSGD(3)}
    one, three = (net(MLP, engine=Threads(n), **options).fit(x, y) for n in (1, 3))
    assert one.report_.sha256 == three.report_.sha256
    options |= {"n_shards": 1, "shuffle": False, "strategy": LocalSGD(1)}
    with pytest.raises((InputError, RankError), match=r"rows of the steps from 1 on weigh nothing"):
        net(MLP, engine=Threads(1), **options).fit(x, np.arange(21) % 3, np.where(np.arange(21) // 4 == 1, 0.0, 1.0))


@functools.cache
def accuracy(strategy: Any) -> float:
    x, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split((x / 16).astype(np.float32), y, random_state=0)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    made = net(module, lr=2e-3, epochs=30, batch_size=64, strategy=strategy, engine=Threads(2))
    return float(made.fit(train, y_train).score(test, y_test))


@pytest.mark.thorough
@pytest.mark.parametrize("outer", ["average", "nesterov"])
def test_digits_are_learned_as_well_as_synchronously(outer: str) -> None:
    assert accuracy(LocalSGD(8, outer)) > accuracy(tutti.AllReduce()) - 0.01


# the grammar


def test_the_rounds_and_bytes_are_fewer_and_the_plan_says_so() -> None:
    x, y = rows(MLP)
    ours, theirs = (
        net(MLP, batch_size=64, engine=Processes(2), strategy=s, **SGD).fit(x, y)
        for s in (LocalSGD(4), tutti.AllReduce(claim=False))
    )
    assert (ours.report_.rounds, theirs.report_.rounds) == (8, 32)
    assert ours.report_.sent_bytes < theirs.report_.sent_bytes / 3
    assert (ours.plan_.rounds, theirs.plan_.rounds) == (8, 32)
    assert "a merge every 4 steps: 8 in place of 32" in str(ours.explain(x, y))


@pytest.mark.parametrize(
    "options",
    [
        {"local_steps": 0},
        {"local_steps": 2.5},
        {"outer": "adam"},
        {"outer_lr": 0.5},
        {"outer": "nesterov", "outer_lr": 0.0},
        {"outer": "nesterov", "outer_momentum": 1.0},
    ],
)
def test_settings_that_cannot_be(options: Any) -> None:
    with pytest.raises(ParameterError):
        LocalSGD(**options)


def test_a_learner_without_deltas_is_told_what_fits() -> None:
    x, y = rows(MLP)
    with pytest.raises(PlanError, match=r"use strategy=tutti.AllReduce\(\) with it.*solver='sgd'"):
        tutti.LogisticRegression(solver="newton", strategy=LocalSGD()).fit(x, y)
    with pytest.raises(PlanError, match=r"use strategy=tutti.CoCoA\(\) with it"):
        tutti.LinearSVC(solver="dual", strategy=LocalSGD()).fit(x, y)


def test_a_grid_searches_over_local_steps() -> None:
    x, y = rows(MLP, n=300)
    made = net(MLP, strategy=LocalSGD(), engine=Threads(1), epochs=1, **SGD)
    search = GridSearchCV(made, {"strategy__local_steps": [1, 4]}, cv=2, error_score="raise").fit(x, y)
    assert search.best_params_["strategy__local_steps"] in (1, 4)


def test_training_goes_on_from_a_fitted_net(tmp_path: Path) -> None:
    x, y = rows(MLP)
    once = net(MLP, strategy=LocalSGD(4, "nesterov"), engine=Threads(2), epochs=1, **ADAM).fit(x, y)
    assert once.partial_fit(x, y).history_[-1]["epoch"] == 2
    once.save(str(tmp_path / "net"))
    loaded = tutti.load(str(tmp_path / "net"), module=MLP)
    loaded.set_params(strategy=tutti.AllReduce(), engine=Threads(1)).partial_fit(x, y)
    assert loaded.history_[-1]["epoch"] == 3
