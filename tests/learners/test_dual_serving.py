"""Dual updates that are pushed: the dual never falls however late they come, and w stays the sum over the duals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.errors import RunError
from tutti.learners._dual_serving import ServedDual
from tutti.learners._problem import LinearProblem
from tutti.learners.dual import DualCoordinateDescent
from tutti.serving import Housed, Servable, Serving
from tutti.testing.local import cut
from tutti.types import Array, Csr, Order, Schema, Update

N, D, SHARDS = 200, 12, 4
R = np.random.default_rng(0)
X = sp.random_array((N, D), density=0.4, rng=R, format="csr")
X.sort_indices()
ROWS = Csr(X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data, D)
Y = (X @ R.standard_normal(D) + 0.2 * R.standard_normal(N) > 0).astype(np.int32)
SIGNS = 2.0 * Y - 1.0
SCHEMA = Schema(N, D, classes=(0, 1), weight_sum=float(N), sparse=True, n_values=X.nnz)
SHARD_ROWS = cut(ROWS, Y, None, SHARDS)


class Ranks:
    """Some ranks over one memory, each of which may hold a push for as long as it likes."""

    def __init__(self, problem: LinearProblem, n: int, tol: float = 1e-9) -> None:
        self.served = [DualCoordinateDescent(problem, tol).served(whole=False) for _ in range(n)]
        self.C, self.loss = problem.C, problem.loss
        self._memory: list[Array] = []
        plain = [s.init(SCHEMA, seed=0) for s in self.served]
        self.states = [self._placed(s, p, join=k > 0) for k, (s, p) in enumerate(zip(self.served, plain, strict=True))]
        self.private = [{s: served.adopt(SCHEMA, d) for s, d in SHARD_ROWS.items()} for served in self.served]
        self.shared = self.states[0]

    def _placed(self, served: ServedDual, plain: Any, join: bool) -> Any:
        asked = iter(range(99))

        def memory(n_bytes: int) -> Array:
            i = next(asked)
            if not join:
                self._memory.append(np.full(n_bytes, 7, np.uint8))
            return self._memory[i]

        state = served.serve(plain, served.ranges(plain, 3), memory, memory, join)
        rows = [SHARD_ROWS[s].n_rows for s in range(SHARDS)]
        served.house(state, rows, SHARDS, memory, () if join else range(SHARDS))
        return state

    def work(self, rank: int, step: int, shard: int) -> Any:
        order = {shard: Order(step, "gradient", 0, shard)}
        return self.served[rank].work(self.states[rank], self.private[rank], SHARD_ROWS, order)

    def move(self, rank: int, push: Any) -> None:
        self.served[rank].move(self.states[rank], push, 0, 1.0)
        self.served[rank].tally(self.states[rank], push, SHARDS)

    def duals(self) -> Array:
        return np.concatenate([a[:, 0] for a, _, _ in self.shared.homes])

    def dual(self) -> float:
        """Return D(a) without an intercept, from the duals alone."""
        a, c = self.duals(), self.C
        assert a.min() >= 0
        if self.loss == "squared_hinge":
            conjugate = (a * a / (4 * c) - a).sum()
        elif self.loss == "hinge":
            assert a.max() <= c
            conjugate = -a.sum()
        else:
            r = np.clip(a / c, 1e-300, 1 - 1e-16)
            conjugate = c * (r * np.log(r) + (1 - r) * np.log1p(-r)).sum()
        v = X.T @ (a * SIGNS)
        return float(-conjugate - 0.5 * v @ v)

    def strays(self) -> float:
        """Return how far w is from the sum over the duals."""
        return float(np.abs(self.shared["w"][:, 0] - X.T @ (self.duals() * SIGNS)).max())

    def pause(self, step: int) -> None:
        served, state = self.served[0], self.shared
        served.reached(state, step)
        if served.due(state):
            self.judge(step)

    def judge(self, step: int) -> None:
        served, state = self.served[0], self.shared
        orders = [Order(step, "summary", 0, s) for s in SHARD_ROWS]
        found = [served.propose(state, self.private[0][o.shard], SHARD_ROWS[o.shard], o).update.arrays for o in orders]
        served.apply(state, Update("summary", {name: sum(f[name] for f in found) for name in found[0]}), 1.0)


LOSSES = ["hinge", "squared_hinge", "logistic"]


@pytest.mark.thorough
@pytest.mark.parametrize("loss", LOSSES)
@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_the_dual_never_falls_however_late_a_push_comes(loss: Any, seed: int) -> None:
    ranks, draw = Ranks(LinearProblem(loss, 10.0, "none"), 3), np.random.default_rng(seed)
    last = ranks.dual()
    for epoch in range(3):
        first = int(ranks.shared["at"][1])
        end = ranks.served[0].next_pause(ranks.shared, None)
        items = [(t, s) for t in range(first, end) for s in range(SHARDS)]
        held: dict[int, Any] = {}
        while items or held:
            rank = int(draw.integers(3))
            if rank in held and (not items or draw.random() < 0.3):
                ranks.move(rank, held.pop(rank))
                now = ranks.dual()
                assert now >= last - 1e-9 * abs(last), (epoch, rank)
                last = now
                assert ranks.strays() < 1e-9
            elif rank not in held and items:
                held[rank] = ranks.work(rank, *items.pop(0))
        ranks.pause(end)
    assert last > 0


@pytest.mark.parametrize("intercept", ["free", "regularised"])
def test_the_intercept_moves_with_the_duals_that_it_follows(intercept: Any) -> None:
    ranks = Ranks(LinearProblem("logistic", 1.0, intercept), 2)
    for t in range(6):
        held = [ranks.work(rank, t, rank) for rank in (0, 1)]
        for rank, push in enumerate(held):
            ranks.move(rank, push)
    a, shared = ranks.duals(), ranks.shared
    np.testing.assert_allclose(shared["a"][:, 0], [a[Y == 0].sum(), a[Y == 1].sum()], rtol=1e-10)
    kappa = ranks.served[0].dual.stiffness(shared)
    b = kappa * (a @ SIGNS + shared["centre"] / shared["proximity"])
    np.testing.assert_allclose(shared["b"], b, rtol=1e-9)


class Killed(Exception):
    """Stands for the death of a worker that holds the lock."""


@pytest.mark.parametrize("loss", LOSSES)
def test_a_push_that_was_cut_in_the_middle_is_made_good_at_the_next_pause(loss: Any) -> None:
    class Dying(DualCoordinateDescent):
        def apply(self, shared: Any, merged: Update, scale: Any) -> Any:
            if merged.kind == "dual":
                raise Killed
            return super().apply(shared, merged, scale)

    ranks = Ranks(LinearProblem(loss, 10.0, "none"), 2)
    ranks.served[1].dual = Dying(LinearProblem(loss, 10.0, "none"))
    for t in range(4):
        ranks.move(0, ranks.work(0, t, 0))
    push = ranks.work(1, 4, 1)
    with pytest.raises(Killed):
        ranks.move(1, push)
    assert ranks.strays() > 1e-3
    ranks.move(0, ranks.work(0, 4, 0))  # others go on meanwhile
    assert ranks.strays() > 1e-3
    ranks.pause(ranks.served[0].next_pause(ranks.shared, None))
    assert ranks.strays() < 1e-12
    assert not ranks.shared["torn"].any()
    assert ranks.served[0].progress(ranks.shared).gap < np.inf


def test_a_certificate_without_all_rows_is_the_last_one_or_an_error() -> None:
    ranks = Ranks(LinearProblem("logistic", 1.0, "none"), 1)
    ranks.move(0, ranks.work(0, 0, 0))
    order = Order(1, "summary", 0, 0)
    found = ranks.served[0].propose(ranks.shared, ranks.private[0][0], SHARD_ROWS[0], order)
    with pytest.raises(RunError, match="before the first certificate was made"):
        ranks.served[0].apply(ranks.shared, found.update, 1.0)
    ranks.judge(1)
    known = ranks.served[0].progress(ranks.shared)
    ranks.served[0].apply(ranks.shared, found.update, 1.0)
    progress = ranks.served[0].progress(ranks.shared)
    assert progress.done
    assert not progress.converged
    assert (progress.objective, progress.gap) == (known.objective, known.gap)


def test_it_is_served_as_a_form_of_its_own() -> None:
    dual = DualCoordinateDescent()
    assert isinstance(dual, Servable)
    assert not isinstance(dual, Serving)
    assert isinstance(dual.served(whole=False), Housed)
    assert dual.served(whole=False).unservable() is None
    assert "server_optimizer" in str(dual.served(whole=True).unservable())
