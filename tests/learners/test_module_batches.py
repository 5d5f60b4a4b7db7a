"""Which rows make up each batch: every row once an epoch, equal batches, no count that ever falls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.learners.module.batches import Deal, deck, epoch_order, held_out, pick, taken

SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(lambda rows: sum(rows) > 0)


@given(SHARDS, st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_an_epoch_takes_every_row_once_in_equal_batches(rows: list[int], batch_size: int) -> None:
    deal = Deal(tuple(rows), batch_size)
    ends = [0] * len(rows)
    sizes = []
    for step in range(deal.n_steps):
        ranges = deal.rows(step)
        assert [lo for lo, _ in ranges] == ends, "a batch begins where the last one ended"
        ends = [hi for _, hi in ranges]
        sizes.append(sum(hi - lo for lo, hi in ranges))
        assert sizes[-1] == deal.n_of(step)
    assert ends == rows
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(SHARDS)
@settings(max_examples=100, deadline=None)
def test_shards_take_turns_by_their_size(rows: list[int]) -> None:
    n = sum(rows)
    before = (0,) * len(rows)
    for q in range(n + 1):
        now = taken(rows, q)
        assert sum(now) == q
        assert all(b <= a <= r for b, a, r in zip(before, now, rows, strict=True)), "no count falls or is too large"
        assert all(abs(c - r * q / n) <= max(len(rows) / 2, 1) for c, r in zip(now, rows, strict=True)), "far ahead"
        assert len(set(rows)) > 1 or max(now) - min(now) <= 1, "equal shards take turns"
        before = now


def test_the_order_depends_on_run_epoch_and_shard_alone() -> None:
    bounds = [(0, 5), (5, 12)]
    rows = deck(1, 0, bounds, 0.0).train

    def flat(seed: int, epoch: int, shard: int) -> list[int]:
        return [bounds[b][0] + int(r) for b, rs in epoch_order(seed, epoch, shard, rows, True) for r in rs]

    assert sorted(flat(1, 0, 0)) == list(range(12))
    assert flat(1, 0, 0) == flat(1, 0, 0)
    assert len({tuple(flat(*key)) for key in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0))}) == 4


@pytest.mark.parametrize("start, stop", [(0, 12), (3, 9), (5, 5), (11, 12)])
def test_pick_takes_a_run_of_an_order(start: int, stop: int) -> None:
    order = [(1, np.array([5, 6, 4])), (0, np.arange(4)), (2, np.arange(10, 15))]
    flat = [(b, int(r)) for b, rs in order for r in rs]
    assert [(b, int(r)) for b, rs in pick(order, start, stop) for r in rs] == flat[start:stop]


def test_validation_rows_are_drawn_once_and_kept_apart() -> None:
    bounds = [(0, 10), (10, 17)]
    made = deck(3, 2, bounds, 0.25)
    train = {(b, int(r)) for b, rs in made.train for r in rs}
    valid = {(b, int(r)) for b, rs in made.valid for r in rs}
    assert len(valid) == held_out(17, 0.25) == 4
    assert not train & valid
    assert len(train | valid) == 17
