"""`check_strategy`: does a strategy keep the contract of `tutti.protocols.Strategy`?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutti import _spec
from tutti.protocols import Engine, Learner, Strategy
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import draft_plan, train
from tutti.types import Schema


def check_strategy(
    strategy: Strategy,
    learner: Learner,
    dataset: Any,
    schema: Schema,
    engines: Sequence[Engine],
    *,
    n_shards: int = 8,
    model: Sequence[str] = ("coef", "intercept"),
) -> None:
    """Train with every engine and raise AssertionError with the broken sentence of the contract, or return.

    Parameters
    ----------
    engines : of different sizes and kinds, for example ``[Threads(1), Threads(3), Processes(2)]``.
    model : names of the shared arrays that must have the same bits whoever computed them.
    """
    assert isinstance(strategy, Strategy), f"{type(strategy).__name__} lacks a method of tutti.protocols.Strategy"
    text, arrays = _spec.encode(strategy)
    assert _spec.decode(text, arrays) == strategy, "the strategy does not survive the way to another process"
    assert strategy.wants & learner.offers, f"wants {sorted(strategy.wants)}, offered {sorted(learner.offers)}"
    plan = draft_plan(dataset, schema, learner, strategy, engines[0], n_shards)
    assert plan == draft_plan(dataset, schema, learner, strategy, engines[0], n_shards), "plan is not pure"
    assert plan.strategy == type(strategy).__name__, "plan does not carry the strategy's name"
    seen: dict[str, str] = {}
    for engine in engines:
        result = train(learner, dataset, schema=schema, strategy=strategy, engine=engine, n_shards=n_shards, seed=7)
        assert result.progress.done, "run returned before the learner was done"
        size = draft_plan(dataset, schema, learner, strategy, engine, n_shards).size
        assert len(result.reports) == size, "a rank did not report"
        seen[repr(engine)] = model_sha256({name: result.arrays[name] for name in model})
    assert len(set(seen.values())) == 1, f"the bits depend on the engine or the number of workers: {seen}"
