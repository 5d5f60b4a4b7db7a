"""A small part of a shard's rows, spread over all of it: runs of neighbouring rows at seeded places, one per stratum.

Runs keep memory access sequential; strata keep a sample of label-sorted rows as mixed as the whole.
"""

from __future__ import annotations

import numpy as np

from tutti.learners._margins import Rows
from tutti.protocols import ShardData
from tutti.seeds import generator
from tutti.types import Array, Block, Csr

RUN = 64
"""Rows of a run: 25 kB at 100 float32 features."""


def sample_rows(data: ShardData, fraction: float, seed: int) -> list[Rows]:
    """Return about ``fraction`` of the shard's rows, at least one run; the same for the same arguments.

    A shard of one block is read where it lies; the runs of several blocks are copied, since blocks may come from disk.
    """
    n = data.n_rows
    if n == 0:
        return []
    count = max(round(fraction * n / RUN), 1)
    stratum = n / count
    spare = max(stratum - RUN, 0.0)
    offsets = generator(seed, shard=data.id, purpose="sample").random(count)
    starts = np.floor(np.arange(count) * stratum + offsets * spare).astype(np.int64)
    if len(data.bounds) == 1:
        return [Rows(data.block(0), starts, RUN)]
    found = []
    for i, (lo, hi) in enumerate(data.bounds):
        mine = starts[(starts >= lo) & (starts < hi)]
        if len(mine):
            found.append(Rows(_take(data.block(i), mine - lo)))
    return found


def sample_block(data: ShardData, fraction: float, seed: int) -> Block:
    """Return the rows of `sample_rows` of a shard of one block, gathered."""
    (rows,) = sample_rows(data, fraction, seed)
    return _take(rows.block, np.zeros(1, np.int64) if rows.starts is None else rows.starts)


def _take(block: Block, starts: Array) -> Block:
    n = len(block.y)
    index = (starts[:, None] + np.arange(RUN)).ravel()
    index = index[index < n]
    x = _take_csr(block.x, index) if isinstance(block.x, Csr) else block.x[index]
    return Block(x, block.y[index], None if block.weight is None else block.weight[index], block.start)


def _take_csr(x: Csr, index: Array) -> Csr:
    lengths = x.indptr[index + 1] - x.indptr[index]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    at = np.repeat(x.indptr[index] - indptr[:-1], lengths) + np.arange(indptr[-1])
    return Csr(indptr, x.indices[at], x.values[at], x.n_features)
