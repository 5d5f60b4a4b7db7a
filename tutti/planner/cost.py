"""A first, simple model of time: bytes and arithmetic per pass, plus the merges.

The constants are orders of magnitude of one core of a present server; the estimate is meant to tell a second from a
minute from an hour, and `Report` tells afterwards what it really was.
"""

from __future__ import annotations

from tutti.types import Cost, Plan, Schema

DENSE_VALUE_SECONDS = 0.25e-9  # one value of a dense row: memory-bound
SPARSE_VALUE_SECONDS = 2.0e-9  # one non-zero: a gather and perhaps a scatter
FLOP_SECONDS = 3.0e-11  # BLAS-3 on one core
MERGE_SECONDS = 5.0e-5  # two barriers
MERGE_BYTE_SECONDS = 2.0e-10  # one byte of one shard's update, written and summed
READ_BYTE_SECONDS = 1.0e-9  # one byte of decoded data read from text on one core


def estimate_seconds(plan: Plan, schema: Schema, cost: Cost, reads: float) -> float:
    """Return the expected duration of a fit; ``reads`` is how often the data is decoded from its source.

    seconds = passes * values * max(memory, arithmetic) / workers + rounds * merge + reads * bytes / workers
    """
    value = SPARSE_VALUE_SECONDS if schema.sparse else DENSE_VALUE_SECONDS
    value = max(value, cost.flops_per_value * FLOP_SECONDS)
    cores = len({(s.place.host, s.rank) for s in plan.seats})
    cores = max(min(cores, plan.seats[0].place.cores * len({s.place.host for s in plan.seats})), 1)
    compute = cost.passes * schema.n_values * value / cores
    merge = cost.rounds * (MERGE_SECONDS * (plan.size > 1) + plan.n_shards * cost.update_bytes * MERGE_BYTE_SECONDS)
    return compute + merge + reads * schema.n_bytes * READ_BYTE_SECONDS / cores
