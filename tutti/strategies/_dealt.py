"""Which shards a worker has: neighbours, so that the partial sums of the reduction tree stay together."""

from __future__ import annotations


def dealt(n_shards: int, n_workers: int, worker: int) -> range:
    """Return the shards of a worker."""
    return range(n_shards * worker // n_workers, n_shards * (worker + 1) // n_workers)
