"""Items under a clock rule: nobody is too far ahead, every item is done once, whoever is slow, late or lost."""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.strategies._desk import Desk, Sign
from tutti.strategies._store import Store
from tutti.types import Push


class Shared:
    """What simulated ranks have in common; nothing waits here, the simulation asks again."""

    def __init__(self):
        self.lost, self.waited = set(), 0.0

    def memory(self, n_bytes):
        return np.full(n_bytes, 7, np.uint8)

    def locks(self, n):
        return [contextlib.nullcontext()] * n

    def ring(self):
        pass

    def gone(self, rank):
        return rank in self.lost


class Simulated:
    """Ranks on a clock of their own, through `Desk.choose`; ``delay(rank)`` is how long an item takes."""

    def __init__(self, size, staleness, claim, delay, n_steps, again=False):
        words, self.shared = np.empty(Desk.n_words(size), np.int64), Shared()
        lock = threading.Lock()
        self.make = lambda r: Desk(words, lock, self.shared, r, size, size, staleness, claim)
        self.desks, self.again, self.lives = [self.make(r) for r in range(size)], again, [0] * size
        for desk in self.desks:
            desk.open(0, n_steps)
        self.staleness, self.delay, self.size = staleness, delay, size
        self.working, self.done, self.most = {}, [], 0

    def clocks(self):
        """Return the steps that ranks work on, or would work on next where parts are dealt."""
        own = {r: t.step for r, t in self.working.items()}
        if not self.desks[0]._claim:
            for r in set(range(self.size)) - own.keys() - self.shared.lost:
                own[r] = self.desks[r]._mine() // self.size
        return own

    def takes(self, rank):
        """Tell whether a rank finds something to do."""
        found = self.desks[rank].choose()
        if isinstance(found, Sign):
            return False
        if found.left:
            self.desks[rank].losers(found.item)
        others = [c for r, c in self.clocks().items() if r != rank]
        if others and not found.left:
            self.most = max(self.most, found.step - min(others))
        self.working[rank] = found
        return True

    def run(self, kills=()):
        """Run to the pause; ``kills`` holds (number of items done, rank)."""
        kills, now, idle = sorted(kills, reverse=True), 0.0, set(range(self.size))
        events = []
        while idle or events:
            while took := [r for r in sorted(idle) if self.takes(r)]:
                for r in took:
                    idle.discard(r)
                    heapq.heappush(events, (now + self.delay(r), r, self.lives[r]))
            if not events:
                assert all(self.desks[r].choose() is Sign.PAUSE for r in idle), "everybody waits"
                return
            now, r, life = heapq.heappop(events)
            if r in self.shared.lost or life < self.lives[r]:
                continue
            self.done.append(self.working.pop(r).item)
            idle.add(r)
            while kills and kills[-1][0] <= len(self.done):
                _, lost = kills.pop()
                self.lives[lost] += 1
                if self.again:  # another process in its seat, which finds the item in hand
                    self.desks[lost] = self.make(lost)
                    self.desks[lost].rejoin()
                    self.working.pop(lost, None)
                    if lost == r:  # its item is applied, as its ledger says
                        self.desks[lost]._finish()
                    idle.add(lost)
                    continue
                if len(self.shared.lost) < self.size - 1 and lost not in self.shared.lost:
                    if lost == r:  # its item is applied, as its ledger says
                        self.desks[lost]._finish()
                    self.shared.lost.add(lost)
                    self.working.pop(lost, None)
                    idle.discard(lost)


def check(size, staleness, claim, seed, n_steps, kills=(), again=False):
    draw = random.Random(seed)
    paces = [draw.expovariate(1.0) + 0.01 for _ in range(size)]
    simulated = Simulated(size, staleness, claim, lambda r: draw.expovariate(1.0 / paces[r]), n_steps, again)
    simulated.run(kills)
    assert simulated.most <= staleness
    assert len(simulated.done) == len(set(simulated.done)), "an item was done twice"
    if claim or again or not kills:
        assert sorted(simulated.done) == list(range(n_steps * size))
    return simulated


@given(st.integers(1, 5), st.sampled_from([1, 2, 4, 9, math.inf]), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_nobody_is_ever_further_ahead_than_the_staleness(size, staleness, claim, seed):
    check(size, staleness, claim, seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize("staleness", [1, 4])
def test_nobody_is_ever_further_ahead_in_1e5_clocks(staleness, claim):
    found = check(4, staleness, claim, 1, 25_000)
    assert found.most == staleness, "the bound was put to the test"


@given(
    st.integers(2, 5),
    st.sampled_from([1, 3, math.inf]),
    st.booleans(),
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4)), max_size=4),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_what_a_lost_rank_had_begun_is_done_by_another_one(size, staleness, claim, seed, kills, again):
    check(size, staleness, claim, seed, 40, [(n, r % size) for n, r in kills], again)


@pytest.mark.parametrize("claim", [True, False])
def test_nothing_is_lost_or_done_twice_under_1000_kills_of_ranks_that_come_back(claim):
    draw = random.Random(3)
    check(4, 3, claim, 2, 1500, [(draw.randrange(6000), draw.randrange(4)) for _ in range(1000)], again=True)


# the ledger


class Killed(Exception):
    pass


def test_a_push_is_applied_once_to_every_range_however_often_ranks_are_lost():
    """1,000 kills, before or after a range was moved; whoever takes over moves only the ranges that were not begun."""
    draw, n_ranges, size = random.Random(4), 6, 1001
    shared, memory = Shared(), np.zeros(8 * 6 * (1 + 2 * 1001), np.uint8)
    shared.memory = lambda n_bytes: memory
    applied, told, doomed = np.zeros(n_ranges, np.int64), np.zeros(n_ranges, np.int64), {}

    def move(i, push):
        at, before = doomed.get("now", (-1, False))
        applied[i] += i != at or not before
        if i == at:
            raise Killed

    stores = [Store(shared, rank, size, n_ranges, move) for rank in range(size)]
    rank = 0
    for item in range(2500):
        losers: list[int] = []
        while True:
            fatal = rank < size - 1 and draw.random() < 0.4
            doomed["now"] = (draw.randrange(n_ranges), draw.random() < 0.5) if fatal else (-1, False)
            store = stores[rank]
            try:
                store.push(item, Push(item, 1.0, np.empty(0)), store.versions(), store.moved(item, losers))
                break
            except Killed:
                losers.append(rank)
                rank += 1
        torn = stores[rank].torn(item, losers)
        missing = item + 1 - applied
        assert ((missing == 0) | (missing == 1)).all(), "nothing is applied twice"
        assert set(np.flatnonzero(missing).tolist()) <= torn, "only what was cut, and is told, may be missing"
        told += missing
        applied += missing
    assert rank == size - 1, "1,000 ranks were lost"
    assert told.sum() > 100
