"""CoCoA: the same bits whoever hosts the shards, and rules that are pure."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tutti._merging import LEAST_MERGES, MOST_MERGES, adapt, merges_per_epoch
from tutti.comm.reduction import Layout, tree_sum
from tutti.errors import ParameterError, PlanError
from tutti.learners._problem import LinearProblem
from tutti.learners.dual import DualCoordinateDescent
from tutti.strategies.cocoa import CoCoA
from tutti.testing.local import LocalWorker, cut
from tutti.types import Place, Plan, Schema, Seat, Update

R = np.random.default_rng(0)
X = R.standard_normal((500, 12)).astype(np.float32)
Y = (X[:, 0] - X[:, 1] + 0.5 * R.standard_normal(500) > 0.3).astype(np.int32)
COUNTS = tuple(np.bincount(Y).tolist())
SCHEMA = Schema(500, 12, (0, 1), tuple(map(float, COUNTS)), COUNTS, 500.0, dtype="float32", n_values=6000)


@dataclass
class ThreadWorker(LocalWorker):
    """One of several ranks in threads: every merge waits for all of them and sums in the same tree."""

    rank: int = 0
    total: int = 8
    barrier: Any = None
    board: Any = None

    @property
    def n_shards(self) -> int:
        return self.total

    @property
    def seat(self) -> Seat:
        return Seat(self.rank, Place("localhost"), tuple(sorted(self.shards)))

    def merge(self, updates: Any) -> Update:
        first = next(iter(updates.values()))
        layout = Layout(first.arrays)
        for shard, update in updates.items():
            self.board[shard] = layout.pack(update.arrays, np.zeros(layout.length, layout.dtype))
        self.barrier.wait(60)
        total = tree_sum(np.stack([self.board[s] for s in range(self.total)]))
        self.barrier.wait(60)
        return Update(first.kind, layout.views(total))


def in_threads(learner: Any, n: int, n_shards: int = 8) -> list[Any]:
    shards = cut(X, Y, n_shards=n_shards)
    barrier, board = threading.Barrier(n), {}
    results: list[Any] = [None] * n

    def rank(r: int) -> None:
        mine = {s: d for s, d in shards.items() if s % n == r}
        worker = ThreadWorker(SCHEMA, mine, rank=r, total=n_shards, barrier=barrier, board=board)
        results[r] = CoCoA().run(worker, learner)

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


@pytest.mark.thorough
@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_same_bits_for_one_process_and_for_threads(loss: Any) -> None:
    learner = DualCoordinateDescent(LinearProblem(loss, 1.0, "free"), 1e-4, 60)
    alone = CoCoA().run(LocalWorker(SCHEMA, cut(X, Y)), learner)
    for n in (2, 3):
        for shared in in_threads(learner, n):
            assert shared.keys() == alone.keys()
            assert all(shared[k].tobytes() == alone[k].tobytes() for k in alone), n


def test_every_summary_is_told_and_the_last_one_ends_the_run() -> None:
    learner = DualCoordinateDescent(LinearProblem("logistic", 1.0, "free"), 1e-4, 60)
    worker = LocalWorker(SCHEMA, cut(X, Y))
    shared = CoCoA().run(worker, learner)
    judged = [e for e in worker.events if e.kind == "summary"]
    assert judged
    assert judged[-1].gap == learner.progress(shared).gap <= 1e-4 * judged[-1].objective
    assert [e.gap for e in judged] == sorted((e.gap for e in judged), reverse=True)
    assert worker.events[-1].kind == "summary"


def test_more_than_one_shard_costs_few_epochs() -> None:
    def epochs(n_shards: int) -> float:
        learner = DualCoordinateDescent(LinearProblem("logistic", 1.0, "free"), 1e-4, 500)
        return float(learner.progress(CoCoA().run(LocalWorker(SCHEMA, cut(X, Y, n_shards=n_shards)), learner)).passes)

    assert epochs(8) <= 4 * epochs(1)


@dataclass(frozen=True)
class Gradients:
    offers: frozenset[Any] = frozenset({"gradient"})


def test_a_learner_without_dual_updates_is_refused_with_what_to_use_instead() -> None:
    draft = Plan("CoCoA", "Threads", "x", "", (), 8)
    with pytest.raises(PlanError, match=r"Gradients offers gradient; use strategy=tutti.AllReduce"):
        CoCoA().plan(SCHEMA, Gradients(), draft)


def test_the_plan_says_what_a_round_sends_and_how_often_an_epoch_is_merged() -> None:
    seats = tuple(Seat(r, Place("localhost"), ()) for r in range(2))
    plan = CoCoA(merges=5).plan(SCHEMA, DualCoordinateDescent(tol=1e-3), Plan("auto", "Threads", "x", "", seats, 8))
    assert plan.strategy == "CoCoA"
    assert plan.sent_bytes_per_round == 12 * 4
    assert plan.rounds > 0
    assert any("5 merges" in note for note in plan.notes)


@pytest.mark.parametrize("field, value", [("merges", 0), ("sigma", 0.0), ("sigma", -1.0)])
def test_impossible_parameters_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ParameterError) as error:
        CoCoA(**{field: value})
    assert error.value.name == field


def shape(n_values: int, n_features: int) -> Schema:
    return Schema(1000, n_features, n_values=n_values)


def test_merges_grow_with_the_values_and_shrink_with_what_a_merge_moves() -> None:
    def merges(n_values: int, n_features: int, n_outputs: int = 1, n_shards: int = 8, share: float = 0.2) -> int:
        return merges_per_epoch(shape(n_values, n_features), n_outputs, n_shards, share)

    assert 1 < merges(10_000_000, 100_000) < merges(25_000_000, 100_000) < MOST_MERGES
    assert merges(25_000_000, 100_000, n_shards=2) > merges(25_000_000, 100_000)
    assert merges(25_000_000, 100_000, share=0.1) < merges(25_000_000, 100_000)
    assert merges(80_000_000, 100) == MOST_MERGES
    assert merges(1000, 100_000) == 1
    assert merges(1000, 300) == merges(0, 0) == LEAST_MERGES
    assert merges(25_000_000, 100_000, n_outputs=10) == merges(25_000_000, 100_000)


def test_sigma_falls_after_full_steps_rises_after_short_ones_and_stays_in_bounds() -> None:
    assert adapt(1.0, 1.0, 8) < 1.0 < adapt(1.0, 0.5, 8)
    assert adapt(1.0, 0.9, 8) == 1.0
    sigma = 1.0
    for _ in range(100):
        sigma = adapt(sigma, 1.0, 8)
    assert sigma == 1 / 8
    for _ in range(100):
        sigma = adapt(sigma, 0.0, 8)
    assert sigma == 8.0
