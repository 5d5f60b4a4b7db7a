"""The rows of one rank as codes, and which of them train, validate or are drawn for a tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tutti._parcel import payload, value_of
from tutti.counting import Sums
from tutti.errors import DataError
from tutti.learners._bins import Bins, merge, summarise
from tutti.learners._kernels.boost import chosen, to_rows
from tutti.protocols import ShardData
from tutti.seeds import seed as derive
from tutti.types import Array, Schema

_NOTHING = np.zeros(0)


@dataclass
class Rows:
    """The rows of the shards of a rank, one shard after the other.

    Parameters
    ----------
    columns, codes : (n_features, n) and (n, n_features) codes: a column is read where rows are parted, a row where they
        are counted.
    y : (n,) float64 targets or int32 class codes.   weight : (n,) float32 or empty.
    train, valid : int32 numbers of the rows that grow trees, and of those that judge them.
    pieces : (start, stop, number of the first row among all rows) of each shard.
    """

    columns: Array
    codes: Array
    y: Array
    weight: Array
    train: Array
    valid: Array
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def n(self) -> int:
        return len(self.y)

    def drawn(self, rows: Array, key: int, fraction: float) -> tuple[Array, Array]:
        """Return the part of ``rows`` that is drawn by the numbers of the rows, and the rest."""
        marks = np.empty(self.n, np.uint8)
        limit = np.uint64(round(fraction * 2**32))
        for lo, hi, first in self.pieces:
            chosen(first, hi - lo, np.uint64(key), limit, marks[lo:hi])
        inside = marks[rows] != 0
        return rows[inside], rows[~inside]


def first_rows(shards: Mapping[int, ShardData], n_shards: int, sums: Sums) -> dict[int, int]:
    """Return the number of the first row of each shard, all rows counted in the order of the shards."""
    counts = np.zeros(n_shards, np.int64)
    for s, data in shards.items():
        counts[s] = data.n_rows
    stops = np.cumsum(sums.total(counts)).tolist()
    return dict(enumerate([0, *stops[:-1]]))


def make_bins(
    schema: Schema,
    shards: Mapping[int, ShardData],
    firsts: Mapping[int, int],
    sums: Sums,
    seed: int,
    categorical: Array,
    max_bins: int,
) -> Bins:
    """Return the bins that follow from all rows, whoever holds them."""
    mine = {str(s): summarise(schema, data, firsts[s], seed) for s, data in shards.items()}
    found = dict(mine)
    if not sums.alone:
        for one in sums.gather(b"".join(payload(mine))):
            found.update(value_of(one))
    ordered = [found[s] for s in sorted(found, key=int)]
    return coarser(merge(ordered, categorical, schema.feature_names), max_bins)


def coarser(bins: Bins, max_bins: int) -> Bins:
    """Return bins of which a column has at most ``max_bins``: cuts are left out at equal distances.

    Raises
    ------
    DataError : a categorical column with more categories; they are not merged.
    """
    if (many := np.flatnonzero(bins.n_bins > max_bins)).size == 0:
        return bins
    cuts, values = [], []
    for j in range(bins.n_features):
        own = bins.cuts[bins.cut_at[j] : bins.cut_at[j + 1]]
        if j in many and bins.categorical[j]:
            raise DataError(f"{bins.n_bins[j]} categories, but max_bins={max_bins}: raise it", column=j)
        chosen = np.arange(1, max_bins) * (len(own) + 1) // max_bins - 1
        cuts.append(own[chosen] if j in many else own)
        values.append(np.zeros(0) if j in many else bins.values_of(j))
    ends = [np.cumsum([0, *map(len, parts)]).astype(np.int64) for parts in (cuts, values)]
    return Bins(np.concatenate(cuts), ends[0], np.concatenate(values), ends[1], bins.categorical)


def make_rows(
    schema: Schema,
    shards: Mapping[int, ShardData],
    firsts: Mapping[int, int],
    bins: Bins,
    class_weight: tuple[float, ...] | None,
    validation: float,
    seed: int,
) -> Rows:
    """Return the rows of the shards as codes; rows that weigh nothing neither train nor validate.

    Parameters
    ----------
    validation : part of the rows that is held back.
    """
    n = sum(data.n_rows for data in shards.values())
    columns = np.empty((schema.n_features, n), np.uint8)
    y = np.empty(n, np.float64 if schema.classes is None else np.int32)
    weight = np.ones(n, np.float32) if schema.weighted or class_weight is not None else _NOTHING.astype(np.float32)
    pieces, at = [], 0
    for s, data in sorted(shards.items()):
        pieces.append((at, at + data.n_rows, firsts[s]))
        for i, (lo, hi) in enumerate(data.bounds):
            block = data.block(i)
            bins.encode(block, columns, at + lo, data)
            y[at + lo : at + hi] = block.y
            if block.weight is not None:
                weight[at + lo : at + hi] = block.weight
        at += data.n_rows
    if class_weight is not None:
        weight *= np.asarray(class_weight, np.float32)[y]
    codes = np.empty((n, schema.n_features), np.uint8)
    to_rows(columns, codes)
    used = np.arange(n, dtype=np.int32) if not len(weight) else np.flatnonzero(weight > 0).astype(np.int32)
    rows = Rows(columns, codes, y, weight, used, np.zeros(0, np.int32), tuple(pieces))
    if validation > 0:
        rows.valid, rows.train = rows.drawn(used, derive(seed, purpose="valid"), validation)
    return rows
