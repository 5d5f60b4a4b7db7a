"""Nets whose ranks each step a part of shared weights, and layers that give rows instead of gradients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import Recorder, conv, rows, wide  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.learners.module import _factors, _grouped  # noqa: E402
from tutti.learners.module._columns import Columns, Spot  # noqa: E402
from tutti.learners.module._factors import Factor  # noqa: E402

nn = torch.nn
SGD = {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}
ADAM = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.1}
CASES = {
    "sgd": SGD,
    "adamw": ADAM,
    "groups": {**ADAM, "param_groups": {"*bias": {"weight_decay": 0.0}, "2.*": {"lr": 1e-3}}, "lr_schedule": "cosine"},
    "clip_norm": {**SGD, "clip_norm": 0.1},
    "clip_value": {**SGD, "clip_value": 0.01},
    "not elementwise": {"optimizer": torch.optim.Adafactor, "lr": 0.01},
}


def net(kind, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 2, "random_state": 0, **params})


def digest(kind, engine, weights=None, n=1003, **params):
    return net(kind, engine=engine, **params).fit(*rows(kind, n), weights).report_.sha256


@pytest.mark.parametrize("case", ["sgd", *(pytest.param(c, marks=pytest.mark.thorough) for c in list(CASES)[1:])])
@pytest.mark.parametrize("kind", [wide, pytest.param(conv, marks=pytest.mark.thorough)])
def test_same_bits_for_any_number_of_owners(kind, case):
    weights = np.random.default_rng(0).integers(1, 4, 403).astype(float) if case == "adamw" else None
    engines = [Threads(1), Threads(3), Threads(8), Processes(2)]
    found = {str(engine): digest(kind, engine, weights, n=403, **CASES[case]) for engine in engines}
    assert len(set(found.values())) == 1, found


def test_a_pass_together_that_gives_other_bits_leaves_none_of_them(monkeypatch):
    alone = digest(wide, Threads(8), n=403, **SGD)  # a shard each: nothing goes together
    write = _grouped.Grouped.gradients

    def other_bits(self, batch, ranges, *more):
        found = write(self, batch, ranges, *more)
        for start, stop in ranges if len(ranges) > 1 else ():
            self.rows.slopes(self.factors[2], start, stop).mul_(1.5)
        return found

    monkeypatch.setattr(_grouped.Grouped, "gradients", other_bits)
    assert digest(wide, Threads(2), n=403, **SGD) == alone


def test_a_layer_gives_rows_where_they_are_fewer(monkeypatch):
    seen = []
    write = _factors.Rows.write_gradients
    monkeypatch.setattr(
        _factors.Rows, "write_gradients", lambda self, *a: seen.append(self._factors) or write(self, *a)
    )
    with_rows = net(wide, engine=Threads(2), **SGD).fit(*rows(wide))
    assert [(f.n_in, f.n_out) for f in seen[0]] == [(128, 256), (256, 128)]
    monkeypatch.setattr(_grouped, "factors_of", lambda *a: {})
    without = net(wide, engine=Threads(2), **SGD).fit(*rows(wide))
    for p, q in zip(with_rows.module_.parameters(), without.module_.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_from_rows_is_that_of_the_whole_batch(weighted):
    x, y = rows(wide, n=103)
    x, module = x.astype(np.float64), wide().double()
    weight = np.random.default_rng(0).integers(0, 4, len(y)).astype(float) if weighted else np.ones(len(y))
    Recorder.seen.clear()
    net(module, batch_size=len(y), epochs=1, optimizer=Recorder, engine=Threads(3)).fit(x, y, weight)
    each = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y), reduction="none")
    w = torch.from_numpy(weight)
    ((each * w).sum() / w.sum()).backward()
    for found, p in zip(Recorder.seen[0], module.parameters(), strict=True):
        np.testing.assert_allclose(found, p.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adamw"])
def test_a_checkpoint_holds_the_parts_of_all_owners(optimizer, tmp_path):
    options = {**optimizer, "param_groups": {"*bias": {"weight_decay": 0.0}}, "batch_size": 128}
    whole = digest(wide, Threads(1), epochs=4, **options)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    net(wide, engine=Processes(3), checkpoint=kept, epochs=3, **options).fit(*rows(wide))
    resumed = net(wide, engine=Threads(2), checkpoint=kept, resume=True, epochs=4, **options).fit(*rows(wide))
    assert resumed.report_.sha256 == whole
    once = net(wide, engine=Threads(3), epochs=1, **options).fit(*rows(wide))
    for engine in (Processes(2), Threads(1), Threads(8)):
        once.set_params(engine=engine).partial_fit(*rows(wide))
    assert once.report_.sha256 == whole


def test_columns_are_cut_where_no_tile_is():
    spots = [
        Spot("a", 0, (10, 7), 80),
        Spot("w", 80, (96, 50), 4880),
        Spot("b", 4880, (96,), 4976),
        Spot("c", 4976, (3,), 4992),
    ]
    factor = Factor(1, 2, 50, 96, 0, 32)
    columns = Columns(spots, [factor])
    assert columns.runs == [(0, 80, 0), (4976, 4992, 80)]
    assert columns.n_summed == 96
    for parts in range(1, 12):
        cuts = [columns.cut(part, parts) for part in range(parts + 1)]
        assert cuts == sorted(cuts)
        assert (cuts[0], cuts[-1]) == (0, 4992)
        for cut in cuts:
            assert (cut <= 80 and cut % 16 == 0) or cut in (80 + 1600, 80 + 3200, 4880, 4976, 4992), cut


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["sgd", "groups", "clip_norm"])
@pytest.mark.parametrize("kind", [wide, conv])
def test_same_bits_where_ranks_see_no_common_memory(kind, case):
    one = digest(kind, Threads(1), **CASES[case])
    assert digest(kind, Processes(3, transport="gloo"), **CASES[case]) == one
