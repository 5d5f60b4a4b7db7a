"""How a net is spread: the strategy, the shards of an inexact training, the reason in words."""

from __future__ import annotations

from typing import Any

from tutti.errors import ParameterError, PlanError
from tutti.protocols import Engine, Strategy


def strategy_of(strategy: Any) -> Strategy:
    """Return the strategy that was asked for; "auto" sums gradients."""
    from tutti.strategies.all_reduce import AllReduce

    if isinstance(strategy, str):
        if strategy != "auto":
            raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
        return AllReduce()
    if not isinstance(strategy, Strategy) or isinstance(strategy, type):
        raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
    if "gradient" not in strategy.wants:
        raise PlanError(f"{type(strategy).__name__} cannot train a net; use strategy=tutti.AllReduce()")
    return strategy


def workers_of(engine: Engine, n_shards: int) -> int:
    """Return how many workers will have a shard."""
    wanted = engine.n if engine.n is not None else sum(p.cores for p in engine.places())
    return min(wanted, n_shards)


def reason(exact: bool, n_shards: int) -> str:
    """Return why the gradient is taken in so many parts."""
    if exact:
        return f"one gradient per step, summed over {n_shards} shards in a fixed order: the same bits for any workers"
    return "exact=False: one shard per worker, larger pieces; the bits depend on the number of workers"
