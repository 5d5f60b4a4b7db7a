"""Rows as codes down the trees of a forest end where rows by their values do, whatever their number and type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from tutti.data import from_arrays
from tutti.learners._kernels.lanes import LANES, search
from tutti.learners._kernels.tree_coded import GROUP
from tutti.learners._trees import Trees, Walker
from tutti.learners.forest import ForestLearner
from tutti.testing.tasks import perform_all

RNG = np.random.default_rng(0)
ROWS = [1, 2, LANES - 1, LANES, LANES + 1, 33, GROUP - 1, GROUP, GROUP + 1, 9 * GROUP + 7]


def grown(x: Any, y: Any, **params: Any) -> Trees:
    data = from_arrays(x, y)
    schema = data.schema("regression" if params.get("criterion") == "squared_error" else "classification")
    learner = ForestLearner(n_trees=5, n_shards=2, max_features=2, **params)
    return Trees.from_arrays(perform_all(learner, schema, {i: data.open(i, 2, schema) for i in range(2)}))


def check(trees: Trees, x: Any, narrow: bool = True) -> None:
    """Sums by codes are those by values to the last bit, for each number of rows and of threads."""
    coded, plain = Walker(trees, x.dtype), Walker(trees, x.dtype)
    assert coded._coded is not None
    assert coded._coded._code == (np.uint8 if narrow else np.uint16)
    plain._coded = None
    wanted = plain.sums(x)
    for n in (n for n in ROWS if n <= len(x)):
        assert coded.sums(x[:n]).tobytes() == wanted[:n].tobytes()
        assert coded.sums(x[len(x) - n :]).tobytes() == wanted[len(x) - n :].tobytes()
    assert coded.sums(x, threads=3).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "kind", [{"k": 2}, {"k": 2, "max_depth": 1}, {"k": 2, "max_depth": 6}, {"k": 5}, {"criterion": "squared_error"}]
)
def test_rows_by_codes_end_where_rows_by_values_do(dtype: Any, kind: dict[str, Any]) -> None:
    x = RNG.standard_normal((9 * GROUP + 7, 6)).astype(dtype)
    z, how = x[:, 0] * x[:, 1] + RNG.standard_normal(len(x)), dict(kind)
    k = how.pop("k", None)
    trees = grown(x, z if k is None else np.digitize(z, np.quantile(z, np.arange(1, k) / k)), **how)
    check(trees, x)
    check(trees, np.round(x, 1))  # rows on cuts
    cuts = trees.inner_cut
    on, column = cuts.astype(dtype), trees.feature[trees.feature >= 0]
    at = np.zeros((len(cuts), 6), dtype)
    at[np.arange(len(cuts)), column] = on
    rows = [at, np.nextafter(at, np.array(np.inf, dtype)), np.nextafter(at, np.array(-np.inf, dtype))]
    check(trees, np.concatenate([*rows, np.full((1, 6), 3e38, dtype), np.full((1, 6), -3e38, dtype)]))


def test_more_than_256_columns_and_more_than_255_cuts_take_wide_codes() -> None:
    x = RNG.standard_normal((3_000, 400))
    check(grown(x, (x.sum(axis=1) > 0).astype(int), max_depth=12), x, narrow=False)
    halves = [RNG.standard_normal((3_000, 2)) for _ in range(2)]
    first, second = (grown(half, RNG.integers(0, 2, len(half))) for half in halves)
    check(first.joined(second), np.concatenate(halves), narrow=False)


def test_a_forest_of_roots_has_no_codes() -> None:
    x = RNG.standard_normal((100, 3))
    walker = Walker(grown(x, np.arange(100) % 2, max_depth=0), x.dtype)
    assert walker._coded is None
    assert walker.sums(x[:1]).tobytes() == walker.sums(x)[:1].tobytes()


@njit
def _search(table, values, out):
    for i in range(0, len(values), LANES):
        search(table, values, i, out, i)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("width", "code"), [(256, np.uint8), (256, np.uint16), (4096, np.uint16)])
@pytest.mark.parametrize("n_cuts", [1, 100, -1])
def test_a_search_in_lanes_counts_the_cuts_below(dtype: Any, width: int, code: Any, n_cuts: int) -> None:
    cuts = np.unique(RNG.standard_normal(8192).astype(dtype))
    cuts = np.sort(RNG.permutation(cuts)[: n_cuts % width])
    table = np.full(width, np.inf, dtype)
    table[: len(cuts)] = cuts
    odd = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    values = np.concatenate([odd, cuts, RNG.standard_normal(8192).astype(dtype)])
    values = values[: len(values) // LANES * LANES]
    for kind in (np.float32, np.float64):  # of which one need not be that of the cuts
        out, given = np.zeros(len(values), code), np.nextafter(values.astype(kind), kind(1))
        _search(table, given, out)
        wanted = np.searchsorted(table[: width - 1].astype(np.float64), given.astype(np.float64), "left")
        wanted[np.isnan(given)] = 0
        assert np.array_equal(out, wanted)
