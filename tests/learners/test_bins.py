"""Bins: exact where a column has few values, even where it has many, the same however the rows are dealt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.data import from_arrays
from tutti.errors import DataError
from tutti.learners._bins import Bins, merge, midpoints, rounded_down, summarise
from tutti.types import Array


def binned(
    x: Array, n_shards: int = 3, weight: Array | None = None, categorical: Array | None = None
) -> tuple[Bins, Array]:
    data = from_arrays(x, np.arange(x.shape[0]) % 2, sample_weight=weight)
    schema = data.schema("classification")
    opened = [data.open(s, n_shards, schema) for s in range(n_shards)]
    first = np.cumsum([0] + [s.n_rows for s in opened])
    bins = merge([summarise(schema, s, int(f), 7) for s, f in zip(opened, first, strict=False)], categorical)
    codes = np.full((x.shape[1], x.shape[0]), 99, np.uint8)
    for shard, at in zip(opened, first, strict=False):
        for i, (lo, _) in enumerate(shard.bounds):
            bins.encode(shard.block(i), codes, int(at) + lo, shard)
    return bins, codes


def expected(bins: Bins, j: int, column: Array) -> Array:
    cuts = bins.cuts[bins.cut_at[j] : bins.cut_at[j + 1]]
    found = 1 + np.searchsorted(cuts, column.astype(np.float64), side="left")
    return np.where(np.isnan(column), 0, found)


def test_codes_are_those_of_a_search_in_the_cuts() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70_000, 3)).astype(np.float32)
    x[::7, 1] = np.nan
    x[:, 2] = np.round(x[:, 2] * 4)
    bins, codes = binned(x)
    for j in range(3):
        np.testing.assert_array_equal(codes[j], expected(bins, j, x[:, j]))
    assert bins.n_bins[0] == 255
    assert np.bincount(codes[0])[1:].min() > 0.7 * 70_000 / 255
    np.testing.assert_array_equal(bins.values_of(2), np.unique(x[:, 2]))


def test_a_column_of_few_values_is_cut_between_each_two() -> None:
    x = np.array([[3.0], [1.0], [2.5], [1.0], [np.nan]])
    bins, codes = binned(x)
    assert bins.cuts.tolist() == [1.75, 2.75]
    assert codes.tolist() == [[3, 1, 2, 1, 0]]


def test_a_constant_and_an_empty_column_have_one_bin() -> None:
    x = np.column_stack([np.full(10, 4.0), np.full(10, np.nan)])
    bins, codes = binned(x)
    assert bins.n_bins.tolist() == [1, 1]
    assert codes.tolist() == [[1] * 10, [0] * 10]


@pytest.mark.parametrize("n_rows", [1000, 200_000])
def test_the_same_bins_however_the_rows_are_dealt(n_rows: int) -> None:
    x = np.random.default_rng(1).standard_normal((n_rows, 2))
    first, codes = binned(x, 1)
    for n_shards in (2, 5, 8):
        again, others = binned(x, n_shards)
        np.testing.assert_array_equal(first.cuts, again.cuts)
        np.testing.assert_array_equal(codes, others)


def test_whole_weights_count_like_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((3000, 2)), rng.integers(0, 4, 3000)
    repeated, _ = binned(np.repeat(x, weight, axis=0))
    weighted, _ = binned(x, weight=weight.astype(float))
    np.testing.assert_array_equal(repeated.cuts, weighted.cuts)


def test_a_heavy_value_does_not_cost_the_others_their_bins() -> None:
    rng = np.random.default_rng(3)
    x = np.where(rng.random((60_000, 1)) < 0.6, 0.0, rng.standard_normal((60_000, 1)))
    bins, codes = binned(x)
    assert bins.n_bins[0] > 250
    assert len(np.unique(codes[0][x[:, 0] == 0.0])) == 1


def test_sparse_rows_have_the_codes_of_dense_ones() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(4)
    x = np.where(rng.random((5000, 4)) < 0.3, rng.standard_normal((5000, 4)), 0.0)
    x[:, 3] = np.round(x[:, 3])
    x[:, 2] = np.round(x[:, 2]) + 1.0  # no zero at all
    dense, codes = binned(x)
    thin, others = binned(sparse.csr_matrix(x))
    np.testing.assert_array_equal(dense.cuts, thin.cuts)
    np.testing.assert_array_equal(dense.values, thin.values)
    np.testing.assert_array_equal(codes, others)


def test_categories_are_numbered_in_order_and_unknown_ones_are_refused() -> None:
    x = np.array([[7.0], [3.0], [np.nan], [7.0], [40.0]])
    bins, codes = binned(x, categorical=np.array([True]))
    assert codes.tolist() == [[2, 1, 0, 2, 3]]
    assert bins.n_bins.tolist() == [3]
    data = from_arrays(np.array([[3.0], [5.0]]), [0, 1])
    shard = data.open(0, 1, data.schema("classification"))
    with pytest.raises(DataError, match="category"):
        bins.encode(shard.block(0), np.zeros((1, 2), np.uint8), 0, shard)


def test_more_categories_than_codes_are_refused() -> None:
    with pytest.raises(DataError, match="255 categories"):
        binned(np.arange(300.0)[:, None], categorical=np.array([True]))


def test_infinity_is_refused_with_its_row() -> None:
    x = np.zeros((10, 2))
    x[6, 1] = np.inf
    with pytest.raises(DataError, match="infinity") as caught:
        binned(x, n_shards=2)
    assert caught.value.row == 6


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=20),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=20),
)
def test_a_cut_in_float32_says_what_it_says_in_float64(cuts: list[float], values: list[float]) -> None:
    cut = np.array(cuts)
    narrow = rounded_down(cut, np.float32)
    for v in np.array([*values, *narrow], np.float32):
        np.testing.assert_array_equal(v <= narrow, np.float64(v) <= cut)


def test_the_middle_of_neighbouring_floats_is_the_lower_one() -> None:
    a = 1.0
    b = np.nextafter(a, 2.0)
    assert midpoints(np.array([a, b])).tolist() == [a]


def test_bins_travel_as_arrays() -> None:
    bins, _ = binned(np.random.default_rng(5).standard_normal((400, 3)))
    again = Bins.from_arrays(bins.arrays())
    np.testing.assert_array_equal(again.tables(np.float32), bins.tables(np.float32))
