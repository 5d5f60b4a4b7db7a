"""The learner of nets goes through the contract tests like every other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tutti
from tutti.learners.module.fields import Field
from tutti.testing.learner import check_learner
from tutti.testing.strategy import check_strategy

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.thorough
R = np.random.default_rng(0)
X = R.standard_normal((1003, 6)).astype(np.float32)
Y = (X @ R.standard_normal((6, 3))).argmax(axis=1)
FIELDS = (Field("x", 0, 6, (6,)),)
ENGINES = [*map(tutti.Threads, (1, 2, 3, 5, 8)), *map(tutti.Processes, (1, 2, 3))]


def learner(data: tutti.Dataset, schema: Any, n_shards: int, **settings: Any) -> Any:
    from tutti.learners.module import _build
    from tutti.learners.module._blueprint import Blueprint, write
    from tutti.learners.module.learner import ModuleLearner

    layers = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
    )
    optimizer, elementwise = _build.build_optimizer("adamw", 0.01, None, {})
    blueprint = Blueprint(layers, _build.build_loss("cross_entropy", {}, None), optimizer, elementwise)
    block = data.open(0, n_shards, schema).block(0)
    tried = _build.try_out(blueprint, _build.batch_of(block, 4, FIELDS, True, layers), 3)
    rows = tuple(data.shard_rows(n_shards, schema))
    return ModuleLearner(
        write(blueprint), rows, tried.n_weights, tried.layout, FIELDS, batch_size=100, epochs=1, **settings
    )


@pytest.mark.parametrize("kind", ["gradient", "delta", "summary"])
def test_the_learner(kind: str) -> None:
    data = tutti.from_arrays(X, Y)
    schema = data.schema("classification")
    settled = data.settled(3, schema)
    shards = {s: settled.open(s, 3, schema) for s in range(3)}
    threads = torch.get_num_threads()
    check_learner(learner(data, schema, 3, validation=0.3), schema, shards, kind=kind, hints={"local_steps": 2.0})
    torch.set_num_threads(threads)


@pytest.mark.parametrize("strategy", [tutti.AllReduce(), tutti.LocalSGD(3), tutti.LocalSGD(4, "nesterov")], ids=repr)
def test_under_a_strategy_on_every_engine(strategy: Any) -> None:
    data = tutti.from_arrays(X, Y)
    schema = data.schema("classification")
    made = learner(data, schema, 8, validation=0.1)
    threads = torch.get_num_threads()
    check_strategy(strategy, made, data, schema, ENGINES, model=("weights", "stats"))
    torch.set_num_threads(threads)
