"""What a worker does with rows: the push of an item, and the sums that judge a state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tutti.protocols import ShardData, Worker
from tutti.serving import Serving
from tutti.types import Array, Arrays, Order, Push


class Hands:
    """Shards as they are needed, with what the learner keeps of each."""

    def __init__(self, worker: Worker, learner: Serving) -> None:
        self._worker, self._learner = worker, learner
        self.private: dict[int, Any] = {}

    def open(self, shards: Iterable[int]) -> dict[int, ShardData]:
        """Return the rows of shards, which the learner has adopted; not those that only a lost worker could read."""
        worker = self._worker
        data = {s: worker.open(s) for s in shards if worker.opens or s in worker.shards}
        for s in data.keys() - self.private.keys():
            self.private[s] = self._learner.adopt(worker.schema, data[s])
        return data

    def push(self, shared: Arrays, step: int, data: dict[int, ShardData]) -> Push:
        """Return the push of the rows of some shards in a global step; an empty one if there are none."""
        if not data:
            return Push(step, 0.0, np.empty(0), empty=True)
        orders = {s: Order(step, "gradient", self._worker.seed, s) for s in data}
        return self._learner.work(shared, self.private, data, orders)

    def judge(self, shared: Arrays, step: int, shard: int) -> Arrays:
        """Return the sums over the validation rows of a shard."""
        (data,) = self.open([shard]).values()
        with self._worker.phase("compute"):
            order = Order(step, "summary", self._worker.seed, shard)
            return self._learner.propose(shared, self.private[shard], data, order).update.arrays


def row_of(sums: Arrays) -> Array:
    """Return what a shard was judged by as one row of numbers."""
    return np.concatenate([array.ravel() for array in sums.values()]).astype(np.float64, copy=False)


def summed(rows: Array, like: Arrays) -> Arrays:
    """Return the sums over rows, in their order."""
    cuts = np.cumsum([array.size for array in like.values()])[:-1]
    parts = zip(like.items(), np.split(rows.sum(axis=0), cuts), strict=True)
    return {name: part.reshape(array.shape) for (name, array), part in parts}
