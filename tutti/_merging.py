"""How often dual updates are merged, and with how much caution: for `CoCoA` and for dual updates that are pushed."""

from __future__ import annotations

from tutti.types import Schema

MERGE_COST = 0.5  # what merging one weight of one shard costs, in visits of a value (measured: 1.5 ns to 2.9 ns)
MOST_MERGES = 32
LIGHT = 1 << 18  # up to so many weights over all shards, a merge is cheap enough for
LEAST_MERGES = 8  # an epoch


def merges_per_epoch(schema: Schema, n_outputs: int, n_shards: int, merge_share: float) -> int:
    """Return how often an epoch is merged: as often as ``merge_share`` of its work allows, 1 to `MOST_MERGES` times.

    An epoch visits n_values values, a merge moves n_shards x n_features weights (each for n_outputs outputs).  Light
    merges are made `LEAST_MERGES` times: shards that see each other once an epoch stall on an exact hinge.
    """
    work, merge = schema.n_values * n_outputs, MERGE_COST * n_shards * schema.n_features * n_outputs
    least = LEAST_MERGES if n_shards * schema.n_features * n_outputs <= LIGHT else 1
    return int(min(max(merge_share * work / max(merge, 1.0), least), MOST_MERGES))


def adapt(sigma: float, mean_step: float, n_shards: int) -> float:
    """Return the sigma of the next epoch from the mean step of the last: less caution after full ones, else more.

    Down to 1 / n_shards, where the shards expect nothing of the others; slowly, for too little caution shows only
    after some merges.
    """
    if mean_step >= 0.95:
        return max(0.9 * sigma, min(0.5, 1.0 / n_shards))
    return min(1.25 * sigma, float(n_shards)) if mean_step < 0.8 else sigma
