"""Planning is pure: every row in exactly one shard, for any sizes."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tutti.data import shards
from tutti.errors import DataError, ParameterError

sizes = st.integers(0, 60)
n_shards = st.integers(1, 12)


def members(rows: shards.Rows) -> list[int]:
    return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()


def deal(scheme: str, n: int, k: int, seed: int) -> tuple[shards.Rows, ...]:
    draw = np.random.default_rng(seed)
    if scheme == "random":
        return shards.random(n, k, seed)
    if scheme == "stratified":
        return shards.stratified(draw.integers(0, 3, n), k)
    if scheme == "balanced":
        return shards.balanced(np.concatenate([[0], np.cumsum(draw.integers(0, 5, n))]), k)
    return getattr(shards, scheme)(n, k)


@pytest.mark.parametrize("scheme", ["contiguous", "round_robin", "random", "stratified", "balanced"])
@given(n=sizes, k=n_shards, seed=st.integers(0, 99))
def test_every_row_is_in_exactly_one_shard_and_rows_stay_in_order(scheme: str, n: int, k: int, seed: int) -> None:
    dealt = [members(r) for r in deal(scheme, n, k, seed)]
    assert len(dealt) == k
    assert sorted(chain(*dealt)) == list(range(n))
    assert all(rows == sorted(rows) for rows in dealt)
    assert [shards.count(r) for r in deal(scheme, n, k, seed)] == [len(d) for d in dealt]


@pytest.mark.parametrize("scheme", ["contiguous", "round_robin", "random", "stratified"])
@given(n=sizes, k=n_shards)
def test_shard_sizes_differ_by_at_most_one_row(scheme: str, n: int, k: int) -> None:
    counts = [shards.count(r) for r in deal(scheme, n, k, 1)]
    assert max(counts) - min(counts) <= 1


@given(codes=st.lists(st.integers(0, 3), max_size=60), k=n_shards)
def test_stratified_shards_hold_the_same_share_of_every_class(codes: list[int], k: int) -> None:
    y = np.array(codes, dtype=np.int64)
    for c in range(4):
        held = [int((y[r] == c).sum()) for r in shards.stratified(y, k)]
        assert max(held) - min(held) <= 1


@given(cost=st.lists(st.integers(0, 9), min_size=1, max_size=80), k=n_shards)
def test_balanced_shards_are_off_by_at_most_one_row_from_an_equal_share(cost: list[int], k: int) -> None:
    total = np.concatenate([[0], np.cumsum(cost)])
    edge = 0
    for s, rows in enumerate(shards.balanced(total, k), 1):
        edge = rows.stop if total[-1] else edge
        if total[-1]:
            assert abs(total[edge] - total[-1] * s / k) <= max(cost)


def test_balanced_knots_mean_the_same_as_every_row() -> None:
    knots, cost = np.array([0, 10, 30]), np.array([0.0, 100.0, 120.0])
    every = np.interp(np.arange(31), knots, cost)
    assert shards.balanced(cost, 4, knots) == shards.balanced(every, 4)
    assert shards.balanced(cost, 4, knots) == (slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 30))


def test_random_shards_depend_on_the_seed_alone() -> None:
    one, same, other = (shards.random(50, 4, s) for s in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True) if len(a) == len(b))


@given(
    piece_rows=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    as_slice=st.booleans(),
    repeats=st.booleans(),
)
def test_extents_give_back_the_rows(piece_rows: list[int], seed: int, as_slice: bool, repeats: bool) -> None:
    n = sum(piece_rows)
    draw = np.random.default_rng(seed)
    lo, hi = sorted(draw.integers(0, n + 1, 2).tolist())
    rows: shards.Rows = slice(lo, hi)
    if not as_slice:
        rows = np.sort(draw.integers(0, n, n)) if repeats and n else np.flatnonzero(draw.random(n) < 0.5)
    starts = np.concatenate([[0], np.cumsum(piece_rows)])
    found = [starts[p] + r for p, inside in shards.extents(rows, piece_rows) for r in members(inside)]
    assert found == members(rows)
    assert all(0 <= p < len(piece_rows) and shards.count(r) for p, r in shards.extents(rows, piece_rows))


def test_consecutive_rows_become_a_slice() -> None:
    assert shards.extents(np.array([2, 3, 4, 7]), [5, 5]) == ((0, slice(2, 5)), (1, slice(2, 3)))
    ((_, rows),) = shards.extents(np.array([2, 2, 4]), [5])
    assert rows.tolist() == [2, 2, 4]


@given(n=st.integers(2, 300), test_size=st.floats(0.01, 0.99))
def test_split_sizes_are_those_of_scikit_learn(n: int, test_size: float) -> None:
    try:
        train, test = train_test_split(np.arange(n), test_size=test_size)
    except ValueError:
        with pytest.raises(ParameterError):
            shards.split_sizes(n, test_size)
    else:
        assert shards.split_sizes(n, test_size) == (len(train), len(test))


@pytest.mark.parametrize("wrong", [0, 1.0, 0.0, -1, 10, 11, True, "a", None])
def test_an_impossible_test_size_is_refused(wrong: object) -> None:
    with pytest.raises(ParameterError, match="test_size"):
        shards.split_sizes(10, wrong)  # type: ignore[arg-type]


@given(codes=st.lists(st.integers(0, 2), min_size=4, max_size=80), seed=st.integers(0, 9))
def test_a_stratified_split_draws_each_class_in_proportion(codes: list[int], seed: int) -> None:
    y = np.array(codes)
    counts = np.bincount(y)
    if counts[counts > 0].min() < 2:
        with pytest.raises(DataError, match="least populated class"):
            shards.held_out_rows(len(y), 2, seed, y)
        return
    _, n_test = shards.split_sizes(len(y), 0.3)
    rows = shards.held_out_rows(len(y), n_test, seed, y)
    assert len(set(rows.tolist())) == n_test
    assert (np.abs(np.bincount(y[rows], minlength=len(counts)) - counts * n_test / len(y)) < 1).all()


@given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_resampling_evens_out_the_classes(codes: list[int], seed: int) -> None:
    y = np.array(codes)
    counts = np.bincount(y)
    more, fewer = (shards.resample_rows(y, how, seed) for how in ("oversample", "undersample"))
    assert set(np.bincount(y[more], minlength=len(counts))[counts > 0]) == {counts.max()}
    assert set(np.bincount(y[fewer], minlength=len(counts))[counts > 0]) == {counts[counts > 0].min()}
    assert set(more.tolist()) == set(range(len(y)))
    assert len(set(fewer.tolist())) == len(fewer)
    assert (np.diff(more) >= 0).all()


def test_oversampling_repeats_rows_evenly() -> None:
    y = np.array([0] * 10 + [1] * 3)
    times = np.bincount(shards.resample_rows(y, "oversample", 0))
    assert times[:10].tolist() == [1] * 10
    assert sorted(times[10:].tolist()) == [3, 3, 4]
