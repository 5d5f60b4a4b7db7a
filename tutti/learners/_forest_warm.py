"""A forest of one tree on a handful of rows, so that kernels are compiled once before many workers need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutti.tasking import Room
from tutti.types import Array, Block, Csr, Schema

_N = 12


class _Few:
    """Twelve rows of the kind of the data."""

    def __init__(self, block: Block) -> None:
        self.id, self.n_rows, self._block = 0, _N, block
        self.bounds: Sequence[tuple[int, int]] = ((0, _N),)

    def block(self, i: int) -> Block:
        return self._block

    def place(self, row: int) -> tuple[str | None, int]:
        return None, row


class _FewRows:
    """A `tutti.tasking.Rows` of one shard."""

    def __init__(self, schema: Schema, data: _Few) -> None:
        self.schema, self.n_shards, self._data = schema, 1, data
        self.rooms: dict[str, Array] = {}

    def shard(self, i: int) -> Any:
        return self._data

    def common(self, name: str) -> Array:
        return self.rooms[name]

    def make(self, rooms: dict[str, Room]) -> None:
        self.rooms |= {name: np.zeros(r.shape, r.dtype) for name, r in rooms.items()}


def run(learner: Any, schema: Schema) -> None:
    """Perform every stage of ``learner`` on the few rows."""
    d, classes = 2 + learner.n_targets, schema.classes
    x = np.arange(_N * d).reshape(_N, d).astype(schema.dtype)
    y = np.arange(_N) % (min(len(classes), 2) if classes is not None else _N)
    values: Any = x
    if schema.sparse:
        values = Csr(np.arange(_N + 1, dtype=np.int64) * d, np.tile(np.arange(d, dtype=np.int32), _N), x.ravel(), d)
    weight = np.ones(_N) if schema.weighted else None
    few = _Few(Block(values, y.astype(np.int32 if classes is not None else np.float64), weight, 0))
    tiny = dataclasses.replace(schema, n_rows=_N, n_features=d, weight_sum=float(_N))
    one = dataclasses.replace(
        learner,
        n_trees=1,
        n_shards=1,
        categorical=(),
        max_features=min(learner.max_features, 2),
        monotonic=(1, 0) if any(learner.monotonic) else (),
    )
    rows: Any = _FewRows(tiny, few)
    shared = one.init(tiny, seed=0)
    while costs := one.tasks(shared):
        rows.make(dict(one.rooms(shared)))
        shared = one.assemble(shared, [one.perform(shared, t, rows) for t in range(len(costs))])
