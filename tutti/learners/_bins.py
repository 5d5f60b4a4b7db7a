"""Columns as uint8 codes: a summary per shard, one set of cuts from all summaries, the codes of every row.

A column with at most 255 distinct values is cut between each two of them, so its codes say all that it says.  Any other
is cut where a sample of about 65,536 rows has equal weight on both sides of 254 cuts.  A row is in the sample by bits
of its own number, and distinct values are counted in all rows: the cuts follow from the rows, whoever summarised them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.protocols import ShardData
from tutti.seeds import seed as derive
from tutti.types import Array, Arrays, Block, Csr, Schema

MAX_BINS = 255
_SAMPLE_ROWS, _LEAST_ROWS, _SAMPLE_VALUES = 1 << 16, 1 << 14, 1 << 24
_TABLE = 256


@dataclass(frozen=True)
class Bins:
    """How the values of each column become codes: 0 is missing, 1.. are the bins in order.

    Parameters
    ----------
    cuts, cut_at : the cuts of column j are ``cuts[cut_at[j]:cut_at[j + 1]]``, rising; x <= cut is below it.
    values, value_at : the distinct values of a column whose bins hold one value each, in the same way; else nothing.
    categorical : (n_features,) True where the values are names: codes are equal or not, and no order is meant.
    """

    cuts: Array
    cut_at: Array
    values: Array
    value_at: Array
    categorical: Array

    @property
    def n_features(self) -> int:
        return len(self.categorical)

    @cached_property
    def n_bins(self) -> Array:
        """(n_features,) bins of each column, missing apart."""
        n_values = np.diff(self.value_at)
        return np.maximum(np.where(self.categorical, n_values, np.diff(self.cut_at) + 1), 1).astype(np.int32)

    def arrays(self) -> dict[str, Array]:
        """Return the bins as arrays that travel or are saved; `from_arrays` reads them."""
        names = ("cuts", "cut_at", "values", "value_at", "categorical")
        return {f"bin_{name}": getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Bins:
        names = ("cuts", "cut_at", "values", "value_at", "categorical")
        return cls(**{name: arrays[f"bin_{name}"] for name in names})

    def values_of(self, column: int) -> Array:
        """Return the distinct values of a column that has a bin for each, else an empty array."""
        found: Array = self.values[self.value_at[column] : self.value_at[column + 1]]
        return found

    def tables(self, dtype: Any) -> Array:
        """Return (n_features, 256) cuts in the type of the data, padded with inf; x <= cut as with the float64 cuts."""
        out = np.full((self.n_features, _TABLE), np.inf, dtype)
        for j in range(self.n_features):
            cuts = self.cuts[self.cut_at[j] : self.cut_at[j + 1]]
            out[j, : len(cuts)] = rounded_down(cuts, dtype)
        return out

    def encode(self, block: Block, codes: Array, start: int, data: ShardData) -> None:
        """Write the codes of a block's rows into codes[:, start:], codes (n_features, n_rows) uint8.

        Raises
        ------
        DataError : an infinite value, or a category that the summary has not seen.
        """
        from tutti.learners._kernels import bins as kernels

        x = block.x
        tables = self.tables((x.values if isinstance(x, Csr) else x).dtype)
        if isinstance(x, Csr):
            bad = kernels.encode_csr(x.indptr, x.indices, x.values, tables, codes, start)
        else:
            bad = kernels.encode_dense(x, tables, codes, start)
        if bad >= 0:
            path, row = data.place(block.start + bad)
            message = "Input X contains infinity or a value too large for dtype('float64')."
            raise DataError(message, path=path, row=row, column=_infinite(x, bad))
        for j in np.flatnonzero(self.categorical).tolist():
            column = _column(x, j)
            unknown = kernels.encode_categories(column, self.values_of(j), codes[j, start : start + len(column)])
            if unknown >= 0:
                path, row = data.place(block.start + unknown)
                value = column[unknown].item()
                raise DataError(f"category {value!r} was not there before", path=path, row=row, column=j)


def _infinite(x: Array | Csr, row: int) -> int:
    """Return the first column of a row that holds infinity."""
    if not isinstance(x, Csr):
        return int(np.flatnonzero(np.isinf(x[row]))[0])
    inside = slice(int(x.indptr[row]), int(x.indptr[row + 1]))
    return int(x.indices[inside][np.isinf(x.values[inside])][0])


def rounded_down(cuts: Array, dtype: Any) -> Array:
    """Return cuts in a narrower type such that x <= cut says the same for every x of that type."""
    with np.errstate(over="ignore"):
        narrow = cuts.astype(dtype)
    return np.where(narrow.astype(np.float64) > cuts, np.nextafter(narrow, -np.inf, dtype=dtype), narrow).astype(dtype)


def weight_scale(schema: Schema) -> int:
    """Return k: sample weights become whole numbers as w 2^k, and their sum over all rows stays exact in float64."""
    if not schema.weighted:
        return 0
    return max(0, min(40, 48 - math.ceil(math.log2(max(schema.weight_sum, 1e-300)))))


def whole_weights(weight: Array | None, n_rows: int, scale: int) -> Array:
    """Return (n_rows,) int64 weights."""
    if weight is None:
        return np.ones(n_rows, np.int64)
    return np.rint(np.ldexp(weight, scale)).astype(np.int64)


def summarise(schema: Schema, data: ShardData, first_row: int, seed: int) -> dict[str, Array]:
    """Return what the cuts need to know of a shard.

    Parameters
    ----------
    first_row : number of the shard's first row among all rows, the shards in order.
    seed : seed of the run.

    Returns
    -------
    "sample" (n_features, m) values of the sampled rows and their "weight" (m,); "distinct" (n_features, 255) sorted,
    "n_distinct" (n_features,), 256 where there are more.  Rows of weight 0 are in neither.
    """
    from tutti.learners._kernels import bins as kernels

    d, scale = schema.n_features, weight_scale(schema)
    room = min(_SAMPLE_ROWS, max(_LEAST_ROWS, _SAMPLE_VALUES // d))
    part = min((room << 32) // max(schema.n_rows, 1), 1 << 32)
    dtype = np.dtype(schema.dtype)
    distinct, n_distinct = np.zeros((d, MAX_BINS), dtype), np.zeros(d, np.int64)
    samples, weights, used_rows, filled = [np.zeros((d, 0), dtype)], [np.zeros(0, np.int64)], 0, np.zeros(d, np.int64)
    key = derive(seed, purpose="bins")
    for i, (lo, hi) in enumerate(data.bounds):
        block = data.block(i)
        whole = whole_weights(block.weight, hi - lo, scale)
        used = (whole > 0).astype(np.uint8) if block.weight is not None else np.zeros(0, np.uint8)
        rows = np.empty(hi - lo, np.int64)
        rows = rows[: kernels.chosen(np.uint64(key), first_row + lo, hi - lo, part, rows)]
        rows = rows[whole[rows] > 0]
        weights.append(whole[rows])
        used_rows += int(used.sum()) if len(used) else hi - lo
        if isinstance(block.x, Csr):
            x = block.x
            kernels.distinct_csr(x.indptr, x.indices, x.values, used, distinct, n_distinct, filled)
            samples.append(np.zeros((d, len(rows)), dtype))
            kernels.sample_csr(x.indptr, x.indices, x.values, rows, 0, samples[-1])
        else:
            kernels.distinct_dense(block.x, used, distinct, n_distinct)
            samples.append(np.ascontiguousarray(block.x[rows].T))
    if schema.sparse:
        for j in np.flatnonzero((filled < used_rows) & (n_distinct <= MAX_BINS)).tolist():
            n_distinct[j] = _with_zero(distinct[j], int(n_distinct[j]))
    sample = np.concatenate(samples, axis=1) if len(samples) != 2 else samples[1]
    return {"sample": sample, "weight": np.concatenate(weights), "distinct": distinct, "n_distinct": n_distinct}


def _with_zero(values: Array, n: int) -> int:
    found = np.union1d(values[:n], np.zeros(1, values.dtype))
    if len(found) > MAX_BINS:
        return MAX_BINS + 1
    values[: len(found)] = found
    return len(found)


def merge(
    summaries: Sequence[Mapping[str, Array]], categorical: Array | None = None, names: Sequence[str] | None = None
) -> Bins:
    """Return the bins that follow from the summaries of all shards.

    Parameters
    ----------
    categorical : (n_features,) True for columns whose values are names.
    names : of the columns, for the message.

    Raises
    ------
    DataError : a categorical column with more than 255 categories.
    """
    d = len(summaries[0]["n_distinct"])
    categorical = np.zeros(d, bool) if categorical is None else np.asarray(categorical, bool)
    weight = np.concatenate([s["weight"] for s in summaries])
    cuts: list[Array] = []
    values: list[Array] = []
    for j in range(d):
        exact = _all_distinct(summaries, j)
        if exact is None and categorical[j]:
            what = names[j] if names is not None else j
            raise DataError(f"more than {MAX_BINS} categories: leave it numeric, or merge rare categories", column=what)
        if exact is None:
            column = np.concatenate([s["sample"][j] for s in summaries])
            cuts.append(_sampled_cuts(column, weight))
            values.append(np.zeros(0))
        else:
            values.append(exact)
            cuts.append(np.zeros(0) if categorical[j] else midpoints(exact))
    return Bins(*_packed(cuts), *_packed(values), categorical)


def _all_distinct(summaries: Sequence[Mapping[str, Array]], j: int) -> Array | None:
    if any(s["n_distinct"][j] > MAX_BINS for s in summaries):
        return None
    found = np.unique(np.concatenate([s["distinct"][j, : s["n_distinct"][j]] for s in summaries]))
    return found.astype(np.float64) if len(found) <= MAX_BINS else None


def midpoints(values: Array) -> Array:
    """Return the cuts between neighbours of sorted float64 values: the lower one where nothing lies between."""
    middle = 0.5 * values[:-1] + 0.5 * values[1:]
    return np.where(middle >= values[1:], values[:-1], middle)


def _sampled_cuts(column: Array, weight: Array) -> Array:
    from tutti.learners._kernels.bins import borders

    known = column == column
    if not known.all():
        column, weight = column[known], weight[known]
    if not len(column):
        return np.zeros(0)  # no row of the sample has a value
    if len(weight) and weight.min() == weight.max():
        column, weight = np.sort(column), np.ones(len(column), np.int64)
    else:
        order = np.argsort(column, kind="stable")
        column, weight = column[order], weight[order]
    out = np.empty(MAX_BINS)
    return out[: borders(column, weight, MAX_BINS, out)].copy()


def _packed(parts: Sequence[Array]) -> tuple[Array, Array]:
    at = np.cumsum([0] + [len(p) for p in parts]).astype(np.int64)
    return np.concatenate([*parts, np.zeros(0)]).astype(np.float64), at


def _column(x: Array | Csr, j: int) -> Array:
    if not isinstance(x, Csr):
        return np.ascontiguousarray(x[:, j])
    out = np.zeros(x.shape[0], x.values.dtype)
    at = np.flatnonzero(x.indices == j)
    at = at[(at >= x.indptr[0]) & (at < x.indptr[-1])]
    out[np.searchsorted(x.indptr, at, side="right") - 1] = x.values[at]
    return out
