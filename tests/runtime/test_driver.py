"""`train` brings a learner, a strategy, an engine and a data set together; the learner here is a toy."""

from __future__ import annotations

import numpy as np
import pytest

import tutti
from tests.contract.toys import Mean
from tutti.errors import ParameterError, PlanError, RankError
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import draft_plan, train
from tutti.runtime.report import make_report
from tutti.testing.strategy import check_strategy
from tutti.types import Round

X = np.random.default_rng(0).standard_normal((1003, 7)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def data() -> tuple[tutti.Dataset, object]:
    ds = tutti.from_arrays(X, Y)
    return ds, ds.schema("classification")


def test_the_shared_state_comes_back_with_events_and_reports() -> None:
    ds, schema = data()
    seen = []
    result = train(
        Mean(rounds=3), ds, schema=schema, strategy=tutti.AllReduce(), engine=tutti.Threads(2), watch=seen.append
    )
    np.testing.assert_allclose(result.arrays["coef"], X.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-9)
    assert [r.step for r in result.history] == [1, 2, 3]
    assert [e for e in seen if isinstance(e, Round)] == list(result.history)
    assert [r.rank for r in result.reports] == [0, 1]
    assert all(set(r.seconds) == {"read", "compute", "exchange", "wait"} for r in result.reports)
    report = make_report(result, {"coef": result.arrays["coef"]})
    assert report.rounds == 3
    assert report.converged
    assert report.sent_bytes > 0
    assert report.to_dict()["sha256"] == report.sha256
    assert "converged" in str(report)


def test_a_strategy_gives_the_same_bits_on_every_engine() -> None:
    ds, schema = data()
    engines = [tutti.Threads(n) for n in (1, 2, 3, 5, 8)] + [tutti.Processes(n) for n in (1, 2, 3)]
    check_strategy(tutti.AllReduce(), Mean(rounds=2), ds, schema, engines)


@pytest.mark.parametrize("engine", [tutti.Threads(1), tutti.Threads(3), tutti.Processes(2)], ids=repr)
def test_an_error_in_a_shard_names_its_rank(engine: object) -> None:
    ds, schema = data()
    with pytest.raises(RankError, match="ArithmeticError: shard 7 was told to fail") as caught:
        train(Mean(fail_at=7), ds, schema=schema, strategy=tutti.AllReduce(), engine=engine)
    assert caught.value.rank == engine.n - 1
    assert "in propose" in caught.value.traceback
    train(Mean(), ds, schema=schema, strategy=tutti.AllReduce(), engine=engine)


def test_the_plan_deals_every_shard_once_and_tells_what_is_too_much() -> None:
    ds, schema = data()
    plan = draft_plan(ds, schema, Mean(), tutti.AllReduce(), tutti.Threads(3), 8)
    assert [s.shards for s in plan.seats] == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert sum(plan.shard_rows) == 1003
    crowded = draft_plan(ds, schema, Mean(), tutti.AllReduce(), tutti.Threads(9), 8)
    assert crowded.size == 8
    assert "9 workers were asked for, 8 have work" in crowded.notes[0]


def test_what_makes_no_sense_is_refused_before_anything_starts() -> None:
    ds, schema = data()
    with pytest.raises(ParameterError, match="n_shards=0 is not possible"):
        draft_plan(ds, schema, Mean(), tutti.AllReduce(), tutti.Threads(1), 0)
    with pytest.raises(PlanError, match="Mean offers gradient"):
        draft_plan(ds, schema, Mean(), tutti.CoCoA(), tutti.Threads(1), 8)


def test_the_hash_of_a_model_depends_on_names_shapes_and_bits_alone() -> None:
    a = {"w": np.arange(6.0).reshape(2, 3), "b": np.zeros(1)}
    b = {"b": np.zeros(1), "w": np.asfortranarray(a["w"])}
    assert model_sha256(a) == model_sha256(b)
    assert model_sha256({**a, "b": np.full(1, 1e-300)}) != model_sha256(a)
    assert model_sha256({**a, "w": a["w"].T}) != model_sha256(a)
