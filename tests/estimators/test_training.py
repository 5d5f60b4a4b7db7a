"""tutti.train: losses of one's own over several inputs, masked losses, features that nobody labelled."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import MLP, Recorder, rows  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import DataError, InputError, ParameterError  # noqa: E402

nn = torch.nn


def masked(module, batch):
    """Mean over the entries that are known, which differ in number from row to row."""
    each = (module(batch["x"]) - batch["t"]) ** 2 * batch["known"]
    return each.sum(), batch["known"].sum()


def several(module, batch):
    """Two inputs, two losses, a loss per row."""
    both = module(batch["x"]) + module(batch["z"])
    return nn.functional.cross_entropy(both, batch["y"], reduction="none") + 0.1 * both.pow(2).mean(dim=1)


def problem(n=103):
    x, y = rows(MLP, n=n)
    rng = np.random.default_rng(1)
    known = (rng.random((n, 3)) < 0.4).astype(float)
    return {"x": x.astype(float), "z": x[::-1].astype(float), "y": y, "t": rng.normal(size=(n, 3)), "known": known}


@pytest.mark.parametrize("loss", [masked, several])
def test_the_gradient_is_that_of_the_whole_batch(loss):
    data, module = problem(), MLP(dropout=0.0).double()
    Recorder.seen.clear()
    tutti.train(module, loss, data, optimizer=Recorder, batch_size=103, epochs=1, engine=Threads(3))
    found = loss(module, {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in data.items()})
    (found[0] / found[1] if isinstance(found, tuple) else found.mean()).backward()
    for ours, p in zip(Recorder.seen[0], module.parameters(), strict=True):
        np.testing.assert_allclose(ours, p.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", [Threads(3), pytest.param(Processes(2), marks=pytest.mark.thorough)])
def test_same_bits_for_any_number_of_workers(engine):
    def sha(engine):
        return tutti.train(MLP, several, problem(1003), batch_size=100, epochs=2, engine=engine).report.sha256

    assert sha(engine) == sha(Threads(1))


def test_a_mean_and_a_loss_per_row_are_the_same():
    data = problem()
    one = tutti.train(MLP, several, data, batch_size=50, epochs=1, module__dropout=0.0)
    two = tutti.train(MLP, lambda m, b: several(m, b).mean(), data, batch_size=50, epochs=1, module__dropout=0.0)
    assert one.history[-1]["loss"] == pytest.approx(two.history[-1]["loss"], rel=1e-6)


def test_weights_of_rows_reach_the_loss():
    data, weight = problem(), np.r_[np.ones(50), np.zeros(53)]
    made = tutti.train(MLP, several, data, sample_weight=weight, batch_size=200, epochs=1, module__dropout=0.0)
    first = {name: a[:50] for name, a in data.items()}
    same = tutti.train(MLP, several, first, batch_size=200, epochs=1, module__dropout=0.0)
    assert made.history[0]["loss"] == pytest.approx(same.history[0]["loss"], rel=1e-5)


def test_the_given_module_stays_and_the_trained_one_comes_back():
    module = MLP()
    before = module.layers[0].weight.clone()
    made = tutti.train(module, several, problem(), epochs=1)
    assert torch.equal(module.layers[0].weight, before)
    assert not torch.equal(made.module.layers[0].weight, before)
    assert made.plan.strategy == "AllReduce"


BAD = [
    ("lengths", {"x": np.zeros((5, 20)), "y": np.zeros(4)}, several, {}, DataError, "numbers of rows: x 5, y 4"),
    ("text", {"x": np.array(["a"])}, several, {}, DataError, "'x' is ndarray of dtype"),
    ("shape", problem(), lambda m, b: m(b["x"]), {}, InputError, r"has shape \(4, 3\) for 4 rows; return \(4,\)"),
    ("no function", problem(), "mse", {}, ParameterError, r"write a function of \(module, batch\)"),
    ("missing", problem(), lambda m, b: m(b["X"]), {}, InputError, "KeyError: 'X'"),
    ("class weight", problem(), several, {"class_weight": "balanced"}, ParameterError, "weigh rows in your loss"),
    ("constant", problem(), lambda m, b: b["x"].sum(), {}, InputError, "depends on the module's parameters"),
    ("no setting", problem(), several, {"learning": 1}, ParameterError, "no such parameter"),
]  # fmt: skip


@pytest.mark.parametrize("data, loss, settings, kind, message", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_named(data, loss, settings, kind, message):
    with pytest.raises(kind, match=message):
        tutti.train(MLP, loss, data, **settings)
