"""What a worker does with rows: the push of an item, and the sums that judge a state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tutti.protocols import ShardData, Worker
from tutti.serving import Serving
from tutti.types import Arrays, Order, Push


class Hands:
    """Shards as they are needed, with what the learner keeps of each."""

    def __init__(self, worker: Worker, learner: Serving) -> None:
        self._worker, self._learner = worker, learner
        self.private: dict[int, Any] = {}

    def open(self, shards: Iterable[int]) -> dict[int, ShardData]:
        """Return the rows of shards, which the learner has adopted."""
        worker = self._worker
        data = {s: worker.open(s) for s in shards}
        for s in data.keys() - self.private.keys():
            self.private[s] = self._learner.adopt(worker.schema, data[s])
        return data

    def push(self, shared: Arrays, step: int, data: dict[int, ShardData]) -> Push:
        """Return the push of the rows of some shards in a global step."""
        orders = {s: Order(step, "gradient", self._worker.seed, s) for s in data}
        return self._learner.work(shared, self.private, data, orders)

    def judge(self, shared: Arrays, step: int, shard: int) -> Arrays:
        """Return the sums over the validation rows of a shard."""
        (data,) = self.open([shard]).values()
        with self._worker.phase("compute"):
            order = Order(step, "summary", self._worker.seed, shard)
            return self._learner.propose(shared, self.private[shard], data, order).update.arrays
