"""`check_learner`: does a learner keep the contract of `tutti.protocols.Learner`?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tutti import _spec
from tutti.protocols import Learner, ShardData
from tutti.testing.local import MemoryShard
from tutti.types import Arrays, Csr, Kind, Order, Progress, Proposal, Schema


def check_learner(
    learner: Learner,
    schema: Schema,
    shards: Mapping[int, ShardData],
    *,
    kind: Kind = "gradient",
    hints: Mapping[str, float] | None = None,
) -> None:
    """Raise AssertionError with the broken sentence of the contract, or return.

    Parameters
    ----------
    learner : what is checked.
    schema : of all the shards together.
    shards : at least one shard with rows, by id.
    kind : the update to ask for; one of ``learner.offers``.
    hints : what the learner's strategy would put into ``Order.hints``.

    Example
    -------
    >>> from tutti.learners.gram import Gram
    >>> from tutti.learners._problem import LinearProblem
    >>> from tutti.testing.local import cut
    >>> from tutti.types import Schema
    >>> import numpy as np
    >>> x, y = np.eye(4), np.arange(4.0)
    >>> schema = Schema(n_rows=4, n_features=4, weight_sum=4.0, n_values=16)
    >>> check_learner(Gram(LinearProblem("squared")), schema, cut(x, y, n_shards=2))
    """
    assert isinstance(learner, Learner), f"{type(learner).__name__} lacks a method of tutti.protocols.Learner"
    assert kind in learner.offers, f"the learner offers {sorted(learner.offers)}, not {kind!r}"
    _check_inert(learner)
    learner.prepare(schema)
    assert learner.cost(schema).update_bytes > 0, "cost(schema).update_bytes says that nothing travels"
    shared = learner.init(schema, seed=3)
    _same(shared, learner.init(schema, seed=3), "init is not a pure function of its arguments")
    assert isinstance(learner.progress(shared), Progress), "progress must return tutti.types.Progress"

    first = next(s for s, data in shards.items() if data.n_rows)
    data = shards[first]
    private = learner.adopt(schema, data)
    order = Order(step=0, kind=kind, seed=3, shard=first, hints=dict(hints or {}))
    before = _copy(shared)
    once = _frozen(learner.propose(shared, private, data, order))
    _same(before, shared, "propose changed the shared state")
    again = _frozen(learner.propose(shared, private, data, order))
    _same(once, again, "propose twice gave different bits: it changed private state, or draws unkeyed random numbers")
    _check_empty(learner, schema, shared, data, order, once)

    merged = learner.propose(shared, private, data, order).update
    moved = _copy(learner.apply(learner.init(schema, seed=3), merged, 1.0))
    _same(moved, learner.apply(learner.init(schema, seed=3), merged, 1.0), "apply is not the same on every rank")
    learner.commit(private, Proposal(merged, learner.propose(shared, private, data, order).private), 1.0)


def _check_inert(learner: Any) -> None:
    text, arrays = _spec.encode(learner)
    assert _spec.decode(text, arrays) == learner, "the learner does not survive the way to another process"
    clone = type(learner)(**learner.get_params(deep=False))
    assert clone == learner, "get_params does not rebuild the learner"


def _check_empty(
    learner: Learner, schema: Schema, shared: Arrays, data: ShardData, order: Order, full: Mapping[str, Any]
) -> None:
    block = data.block(0)
    x: Any = block.x
    if isinstance(x, Csr):
        x = Csr(np.zeros(1, np.int64), x.indices[:0], x.values[:0], x.n_features)
    else:
        x = x[:0]
    empty = MemoryShard(order.shard, x, block.y[:0], None if block.weight is None else block.weight[:0])
    update = learner.propose(shared, learner.adopt(schema, empty), empty, order).update
    assert update.arrays.keys() == full.keys(), "an empty shard proposes other arrays than a full one"
    for name, array in update.arrays.items():
        assert array.shape == full[name].shape, f"an empty shard proposes {name!r} of another shape"
        assert not np.any(array), f"an empty shard proposes {name!r} that is not zero"


def _frozen(proposal: Proposal) -> dict[str, Any]:
    return _copy(proposal.update.arrays)


def _copy(arrays: Arrays) -> dict[str, Any]:
    return {name: np.array(array, copy=True) for name, array in arrays.items()}


def _same(a: Arrays, b: Arrays, broken: str) -> None:
    assert a.keys() == b.keys(), broken
    for name in a:
        assert np.array_equal(a[name], b[name], equal_nan=True), f"{broken} (array {name!r})"
