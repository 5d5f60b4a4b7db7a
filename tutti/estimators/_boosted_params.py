"""Parameters of boosted trees, from what people write to what the learner takes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tutti.errors import ParameterError, PlanError
from tutti.protocols import Strategy
from tutti.types import Plan


def strategy_of(strategy: Any) -> Strategy:
    """Return the strategy that was asked for; PlanError if it makes no exact sums."""
    from tutti.strategies.all_reduce import AllReduce

    if isinstance(strategy, str) and strategy == "auto":
        return AllReduce()
    if isinstance(strategy, str | type) or not isinstance(strategy, Strategy):
        raise ParameterError("strategy", strategy, 'write "auto" or tutti.AllReduce()')
    if "counts" not in strategy.wants:
        raise PlanError(
            f"boosted trees need the exact sums of all rows at every level, which {type(strategy).__name__} does not "
            "make; use strategy=tutti.AllReduce()"
        )
    return strategy


def check_memory(plan: Plan) -> None:
    """Raise PlanError where the codes of all rows, two bytes for each value, would not fit."""
    from tutti.data.memory import available_bytes

    free, hosts = available_bytes(), len({seat.place.host for seat in plan.seats})
    if plan.memory_bytes / hosts > free:
        raise PlanError(
            f"rows, codes and histograms would take {plan.memory_bytes / hosts / 2**30:.1f} GB of the "
            f"{free / 2**30:.1f} GB that are free: use fewer columns, lower max_depth or max_bins, or more hosts"
        )


def part_of_columns(given: Any, n: int) -> float:
    """Return the part of the columns that a node tries, of a parameter ``max_features``."""
    wrong = ParameterError("max_features", given, 'write None, "sqrt", "log2", a number of columns or a part of them')
    if given is None:
        return 1.0
    if isinstance(given, str):
        if given not in ("sqrt", "log2"):
            raise wrong
        return max(1, int(math.sqrt(n) if given == "sqrt" else math.log2(n))) / n
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or not float(given) > 0:
        raise wrong
    if isinstance(given, numbers.Integral):
        if int(given) > n:
            raise ParameterError("max_features", given, f"the data has {n} columns; write fewer")
        return int(given) / n
    if float(given) > 1:
        raise wrong
    return float(given)


def _number_of(name: str, given: Any, column: Any, n: int, names: tuple[str, ...] | None) -> int:
    if isinstance(column, str):
        if names is None or column not in names:
            raise ParameterError(name, given, f"{column!r} is not the name of a column")
        return names.index(column)
    if isinstance(column, bool) or not isinstance(column, numbers.Integral) or not 0 <= int(column) < n:
        raise ParameterError(name, given, f"{column!r} is not the number of a column, 0 to {n - 1}")
    return int(column)


def columns_of(given: Any, n: int, names: tuple[str, ...] | None) -> tuple[int, ...]:
    """Return the numbers of the columns that ``categorical_features`` names: a mask, numbers or names."""
    if given is None:
        return ()
    if isinstance(given, str):
        raise ParameterError("categorical_features", given, "write None, a mask, or a list of columns")
    listed = list(given)
    if len(listed) == n and listed and all(isinstance(v, bool | np.bool_) for v in listed):
        return tuple(j for j, v in enumerate(listed) if v)
    return tuple(sorted({_number_of("categorical_features", given, v, n, names) for v in listed}))


def groups_of(given: Any, n: int, names: tuple[str, ...] | None) -> Literal["pairwise"] | tuple[tuple[int, ...], ...]:
    """Return the groups of columns that may meet, of a parameter ``interaction_cst``; empty: all may.

    Columns that stand in no group are one of their own, as in scikit-learn.
    """
    hint = 'write None, "pairwise", "no_interactions", or a list of groups of columns, as [[0, 1], [2]]'
    if given is None:
        return ()
    if isinstance(given, str):
        if given == "pairwise":
            return "pairwise"
        if given == "no_interactions":
            return tuple((j,) for j in range(n))
        raise ParameterError("interaction_cst", given, hint)
    listed: list[Any]
    try:
        listed = [None if isinstance(group, str) else list(group) for group in given]
    except TypeError:
        listed = [None]
    if None in listed:
        message = f"Interaction constraints must be a sequence of tuples or lists: {hint}"
        raise ParameterError("interaction_cst", given, message)
    groups = [tuple(sorted({_number_of("interaction_cst", given, v, n, names) for v in g})) for g in listed if g]
    rest = tuple(sorted(set(range(n)).difference(*groups)))
    return (*groups, rest) if rest else tuple(groups)


def signs_of(given: Any, n: int, names: tuple[str, ...] | None, categorical: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return 1, -1 or 0 of each column, of a parameter ``monotonic_cst``: one for each column, or a dict."""
    hint = f"write -1, 0 or 1 for each of the {n} columns, or a dict"
    if given is None:
        return ()
    signs = [0] * n
    if isinstance(given, Mapping):
        for column, value in given.items():
            signs[_number_of("monotonic_cst", given, column, n, names)] = value
    else:
        if isinstance(given, str) or np.ndim(given) != 1:
            raise ParameterError("monotonic_cst", given, hint)
        signs = list(given)
    if len(signs) != n or any(isinstance(v, bool) or v not in (-1, 0, 1) for v in signs):
        raise ParameterError("monotonic_cst", given, hint)
    named = [j for j in categorical if signs[j] != 0]
    if named:
        hint = f"column {named[0]} is categorical and has no order; write 0 for it"
        raise ParameterError("monotonic_cst", given, hint)
    return tuple(int(v) for v in signs)
