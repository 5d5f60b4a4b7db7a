"""Shards claimed at run time: each is done once, a slow rank is helped, and ranks of one pace are left alone."""

from __future__ import annotations

import heapq
import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.comm.claims import Claims


class Simulated:
    """Ranks that take shards on a clock of their own; ``pace(rank, step)`` is the time of a shard."""

    def __init__(self, size, n_shards, pace, together=False):
        words = np.full(Claims.n_words(size, n_shards), -7, np.int64)
        lock = threading.Lock()
        own = [tuple(range(n_shards * r // size, n_shards * (r + 1) // size)) for r in range(size)]
        self.claims = [Claims(words, lock, r, size, own[r], n_shards) for r in range(size)]
        self.pace, self.together, self.now, self.n_steps = pace, together, 1_000_000, 0

    def step(self, monkeypatched):
        """Return (time of the step, shards by rank)."""
        began, events, done = self.now, [], [[] for _ in self.claims]
        for r, claims in enumerate(self.claims):
            heapq.heappush(events, (self.now, r, claims.step(self.together)))
        while events:
            self.now, r, turns = heapq.heappop(events)
            monkeypatched(self.now)
            mine = next(turns, None)
            if mine is not None:
                done[r] += mine
                heapq.heappush(events, (self.now + len(mine) * self.pace(r, self.n_steps), r, turns))
        for claims in self.claims:
            claims.publish()
        self.n_steps += 1
        return self.now - began, done


def run(simulated, n_steps):
    real = time.perf_counter_ns
    try:
        return [simulated.step(lambda now: setattr(time, "perf_counter_ns", lambda: now)) for _ in range(n_steps)]
    finally:
        time.perf_counter_ns = real


def test_ranks_of_one_pace_keep_their_shards():
    for together in (False, True):
        for _, done in run(Simulated(2, 8, lambda rank, step: 1000 + rank, together), 10):
            assert done == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_slow_rank_is_helped_from_the_second_step_on():
    for together in (False, True):
        steps = run(Simulated(2, 8, lambda rank, step: 1000 * (1 + 3 * rank), together), 10)
        assert steps[0][0] == 16_000, "dealt: nothing is known yet"
        for took, done in steps[2:]:
            assert took <= 8_000, "7 + 1 is the best deal"
            assert sorted(done[0] + done[1]) == list(range(8))


def test_a_rank_that_recovers_gets_its_shards_back():
    steps = run(Simulated(2, 8, lambda rank, step: 4000 if rank and step < 5 else 1000), 20)
    assert steps[-1][1] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@given(st.integers(1, 5), st.integers(1, 9), st.booleans(), st.lists(st.integers(1, 50_000), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_every_shard_is_done_once_whatever_the_paces(size, n_shards, together, paces):
    size = min(size, n_shards)
    steps = run(Simulated(size, n_shards, lambda rank, step: paces[(rank + size * step) % len(paces)], together), 12)
    for _, done in steps:
        assert sorted(s for shards in done for s in shards) == list(range(n_shards))
