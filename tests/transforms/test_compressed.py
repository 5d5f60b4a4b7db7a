"""Compressed updates give the same bits whoever computed them, wherever they travel, and after any resume."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest

sklearn_datasets = pytest.importorskip("sklearn.datasets")  # here: it sets environment variables
torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import MLP, big_conv, rows, wide  # noqa: E402
from tutti.errors import InputError, PlanError  # noqa: E402

SELECT = (tutti.TopK(0.05), tutti.Int8())
FORMS = [tutti.Half(), tutti.Half("bfloat16"), tutti.Int8(), tutti.TopK(0.05), SELECT, tutti.PowerSGD(2)]
ENGINES = [
    *(tutti.Threads(n) for n in (2, 3, 5, 8)),
    *(tutti.Processes(n) for n in (2, 3, 5)),
    *(tutti.Processes(n, transport="gloo") for n in (2, 3, 5)),
    *(tutti.Processes(n, transport="tcp") for n in (2, 3, 5, 8)),
]
THOROUGH = pytest.mark.thorough
SOME = [pytest.param(form, marks=[] if form == SELECT else THOROUGH) for form in FORMS]

THREE = (tutti.Int8(), SELECT, tutti.PowerSGD(2))


def quick(kind, compress, engine):
    """Every form by threads, and one that is selected by processes of both transports."""
    return kind is MLP and (engine == tutti.Threads(3) or (compress == SELECT and engine.n == 2))


def net(kind, compress, engine, **params):
    settings = {"batch_size": 100, "epochs": 2, "lr": 0.01, "random_state": 0, **params}
    strategy = tutti.AllReduce(compress=compress)
    return tutti.NeuralNetClassifier(kind, strategy=strategy, engine=engine, **settings).fit(*rows(kind))


@lru_cache
def alone(kind, compress):
    return net(kind, compress, tutti.Threads(1)).report_.sha256


@pytest.mark.parametrize(
    "kind, compress, engine",
    [
        pytest.param(*case, marks=[] if quick(*case) else THOROUGH, id=f"{case[0].__name__}-{case[1]}-{case[2]}")
        for case in itertools.product((MLP, wide), FORMS, ENGINES)
    ],
)
def test_a_net_has_the_same_bits_for_any_number_of_workers(kind, compress, engine):
    assert net(kind, compress, engine).report_.sha256 == alone(kind, compress)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [tutti.Processes(2), tutti.Processes(3, transport="gloo")], ids=repr)
@pytest.mark.parametrize("compress", FORMS, ids=repr)
def test_so_has_a_net_of_convolutions(compress, engine):
    assert net(big_conv, compress, engine, epochs=1).report_.sha256 == convolved(compress)


@lru_cache
def convolved(compress):
    return net(big_conv, compress, tutti.Threads(1), epochs=1).report_.sha256


def linear(compress, engine):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(1003, 90))
    y = np.argmax(x @ rng.normal(size=(90, 4)), axis=1)
    model = tutti.LinearSVC(solver="sgd", tol=1e-3, max_iter=4, engine=engine)
    return model.set_params(strategy=tutti.AllReduce(compress=compress)).fit(x, y)


@pytest.mark.filterwarnings("ignore:.*max_iter.*", "ignore:.*tol.*")
@pytest.mark.parametrize("compress", SOME, ids=repr)
def test_a_linear_model_has_the_same_bits_and_a_true_certificate(compress):
    one = linear(compress, tutti.Threads(1))
    for engine in (tutti.Threads(5), tutti.Processes(2, transport="gloo")):
        assert linear(compress, engine).report_.sha256 == one.report_.sha256
    exact = linear(None, tutti.Threads(1))
    assert one.report_.sha256 != exact.report_.sha256
    assert one.objective_ - one.duality_gap_ <= exact.objective_, "the certificate comes from sums that are exact"


@pytest.mark.thorough
@pytest.mark.parametrize("compress", [form for form in SOME if form.values[0] in THREE], ids=repr)
@pytest.mark.parametrize("outer", ["average", "nesterov"])
def test_so_has_what_local_steps_exchange_and_it_resumes(compress, outer, tmp_path):
    strategy = tutti.LocalSGD(local_steps=4, outer=outer, compress=compress)

    def fit(engine, **params):
        settings = {"batch_size": 100, "epochs": 3, "random_state": 0, "n_shards": 4, **params}
        net = tutti.NeuralNetClassifier(MLP, strategy=strategy, engine=engine, **settings)
        return net.fit(*rows(MLP)).report_.sha256

    one = fit(tutti.Threads(1))
    assert fit(tutti.Processes(2, transport="gloo")) == fit(tutti.Threads(3)) == one
    keep = tutti.Checkpoint(str(tmp_path), every_steps=7, every_minutes=None)
    fit(tutti.Threads(2), epochs=2, checkpoint=keep)
    assert fit(tutti.Threads(4), checkpoint=keep, resume=True) == one
    strategy = tutti.LocalSGD(local_steps=4, outer=outer)
    assert fit(tutti.Threads(1)) != one


@pytest.mark.filterwarnings("ignore:.*max_iter.*", "ignore:.*tol.*")
def test_local_steps_of_a_linear_model_are_compressed_to_the_same_bits():
    def sha(compress, engine):
        rng = np.random.default_rng(11)
        x = rng.normal(size=(1003, 90))
        y = np.argmax(x @ rng.normal(size=(90, 4)), axis=1)
        model = tutti.LinearSVC(solver="sgd", tol=1e-3, max_iter=4, engine=engine)
        return model.set_params(strategy=tutti.LocalSGD(compress=compress)).fit(x, y).report_.sha256

    one = sha(SELECT, tutti.Threads(1))
    assert sha(SELECT, tutti.Processes(2, transport="gloo")) == sha(SELECT, tutti.Threads(5)) == one
    assert sha(None, tutti.Threads(1)) != one


def test_over_sockets_fewer_bytes_are_sent():
    sent = {
        str(compress): net(MLP, compress, tutti.Processes(2, transport="gloo"), module__hidden=300).report_.sent_bytes
        for compress in (None, tutti.Int8(), SELECT, tutti.PowerSGD(1))
    }
    plain, byte, select, power = sent.values()
    assert plain > byte > power
    assert select < plain / 6


@pytest.mark.thorough
def test_a_shard_without_rows_in_a_batch_sends_what_it_kept():
    params = {"batch_size": 5, "epochs": 1, "n_shards": 8}
    shas = {net(MLP, SELECT, engine, **params).report_.sha256 for engine in (tutti.Threads(1), tutti.Threads(3))}
    assert len(shas) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("compress", [form for form in SOME if form.values[0] in THREE], ids=repr)
@pytest.mark.parametrize(
    "first, then",
    [
        (tutti.Threads(2), tutti.Threads(1)),
        (tutti.Threads(1), tutti.Threads(5)),
        (tutti.Processes(2, transport="gloo"), tutti.Processes(2)),
    ],
    ids=repr,
)
def test_a_resume_under_other_workers_gives_the_bits_of_no_interruption(compress, first, then, tmp_path):
    keep = tutti.Checkpoint(str(tmp_path), every_steps=7, every_minutes=None)
    net(MLP, compress, first, epochs=1, checkpoint=keep)
    whole = net(MLP, compress, tutti.Threads(1), epochs=3)
    again = net(MLP, compress, then, epochs=3, checkpoint=keep, resume=True)
    assert again.report_.sha256 == whole.report_.sha256
    assert again.report_.rounds < whole.report_.rounds
    with pytest.raises(InputError, match="another job"):
        net(MLP, tutti.Int8(block=99), then, epochs=3, checkpoint=keep, resume=True)


def test_sums_and_statistics_stay_exact():
    """The loss of the first step, before any weight moved, is that of a training without compression."""
    first = [
        net(MLP, compress, tutti.Threads(2), epochs=1, batch_size=2000).history_[0]["loss"]
        for compress in (None, tutti.TopK(0.01))
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-6)


@lru_cache
def digits_score(compress):
    x, y = sklearn_datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    shape = {"module__d": 64, "module__hidden": 64, "module__k": 10, "module__dropout": 0.0}
    model = tutti.NeuralNetClassifier(
        MLP, lr=0.005, epochs=20, batch_size=100, n_shards=4, strategy=tutti.AllReduce(compress=compress), **shape
    )
    return model.set_params(engine=tutti.Threads(1)).fit(x[:1400], y[:1400]).score(x[1400:], y[1400:])


@pytest.mark.thorough
@pytest.mark.parametrize("compress", SOME, ids=repr)
def test_digits_are_learned_as_well_as_without(compress):
    assert digits_score(None) > 0.97
    assert digits_score(compress) >= digits_score(None) - 0.01


class Broken(MLP):
    """A net one of whose gradients is infinite while its loss is not."""

    def forward(self, x):
        out = super().forward(x)
        out.register_hook(lambda g: g * torch.inf)
        return out


@pytest.mark.parametrize("compress", FORMS, ids=repr)
def test_an_infinite_gradient_is_refused_by_name(compress):
    with pytest.raises(InputError, match=r"'grad' of shard 0 holds NaN or infinite"):
        net(Broken, compress, tutti.Threads(1))


def test_learners_whose_updates_certify_the_result_are_not_compressed():
    x, y = rows(MLP)
    model = tutti.LogisticRegression(solver="newton", strategy=tutti.AllReduce(compress=tutti.Int8()))
    with pytest.raises(PlanError, match=r"exact updates.*solver='sgd'"):
        model.fit(x, y)
    model.set_params(strategy=tutti.AllReduce(compress="auto"))
    assert "certify" in str(model.explain(x, y))
    assert model.fit(x, y).report_.sha256 == tutti.LogisticRegression(solver="newton").fit(x, y).report_.sha256
