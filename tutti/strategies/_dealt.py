"""Which shards a worker has: neighbours, so that the partial sums of the reduction tree stay together."""

from __future__ import annotations

from collections.abc import Sequence


def dealt(n_shards: int, n_workers: int, worker: int) -> range:
    """Return the shards of a worker."""
    return range(n_shards * worker // n_workers, n_shards * (worker + 1) // n_workers)


def dealt_again(n_shards: int, dropped: Sequence[int]) -> list[list[int]]:
    """Return the shards of each worker after some were dropped: who has fewest takes the next one, nobody gives any.

    Parameters
    ----------
    dropped : for each worker the generation that goes on without it, from 1; 0: it is left.
    """
    n = len(dropped)
    held = [list(dealt(n_shards, n, worker)) for worker in range(n)]
    for generation in range(1, max(dropped) + 1):
        gone = [w for w in range(n) if dropped[w] == generation]
        left = [w for w in range(n) if dropped[w] == 0 or dropped[w] > generation]
        orphans = sorted(s for w in gone for s in held[w])
        for w in gone:
            held[w] = []
        for s in orphans:
            held[min(left, key=lambda w: (len(held[w]), w))].append(s)
    return [sorted(shards) for shards in held]
