"""Batches of sparse rows on the features they touch give the sums of the whole model, there."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from tutti.learners._kernels.touched import fetch, move, settle
from tutti.learners._margins import Nowhere, Rows, collect
from tutti.learners._problem import LinearProblem
from tutti.learners._touched import Renumber
from tutti.types import Array, Block, Csr


def block(n: int, d: int, seed: int, weighted: bool = True) -> Block:
    rng = np.random.default_rng(seed)
    x = sp.random_array((n, d), density=0.05, rng=rng, format="csr")
    x.sort_indices()
    csr = Csr(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data, d)
    return Block(csr, rng.integers(0, 3, n).astype(np.int32), rng.random(n) if weighted else None, 0)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loss", ["logistic", "hinge", "squared_hinge"])
def test_sums_on_the_touched_features_are_those_of_the_whole_model(loss: str, weighted: bool) -> None:
    d = 300
    problem = LinearProblem(loss=loss, C=0.7, class_weight=(1.0, 2.0, 0.5))  # type: ignore[arg-type]
    parts = [
        Rows(block(100, d, 0, weighted), np.array([16, 64, 96]), 16),
        Rows(block(5, d, 1)),
        Rows(block(40, d, 2, weighted), np.array([32]), 16),
        Rows(block(0, d, 3)),
    ]
    rng = np.random.default_rng(4)
    point = rng.standard_normal((d, 3)), rng.standard_normal(3)
    whole = collect(problem, Nowhere(), parts, point, np.float64)
    renumber = Renumber(d)
    for _ in range(2):  # the second batch finds no trace of the first
        batch = renumber.batch(parts)
        assert len(np.unique(batch.touched)) == len(batch.touched) < d
        found = collect(problem, Nowhere(), [batch.rows], (point[0][batch.touched], point[1]), np.float64)
        v = np.zeros_like(whole["v"])
        v[:, batch.touched] = found["v"]
        np.testing.assert_allclose(v, whole["v"], atol=1e-12)
        np.testing.assert_allclose(found["a"], whole["a"], atol=1e-12)
        np.testing.assert_allclose(found["loss"], whole["loss"], atol=1e-12)


def test_a_batch_of_no_rows_touches_nothing() -> None:
    batch = Renumber(7).batch([Rows(block(0, 7, 0))])
    assert len(batch.touched) == 0
    assert batch.rows.n_rows == 0


def test_weights_that_shrink_when_they_are_touched_equal_those_that_shrink_at_every_step() -> None:
    rng = np.random.default_rng(0)
    d, n_outputs, n_steps, shrink = 40, 2, 30, 1 - 0.1 * rng.random(30)
    decay = np.concatenate([[1.0], np.cumprod(shrink)])
    seen = np.concatenate([[0.0], np.cumsum(decay[:-1])])
    lazy: Array = rng.standard_normal((d, n_outputs))
    eager, moved, total = lazy.copy(), np.zeros(d, np.int64), np.zeros((d, n_outputs))
    summed = np.zeros((d, n_outputs))
    for t in range(n_steps):
        touched = rng.permutation(d)[: rng.integers(0, 6)].astype(np.int32)
        pulled, v = np.empty((len(touched), n_outputs)), rng.standard_normal((len(touched), n_outputs))
        fetch(lazy, moved, decay, t, touched, pulled)
        np.testing.assert_allclose(pulled, eager[touched], rtol=1e-12)
        for lo, hi in ((0, 13), (13, d)):
            move(lazy, moved, decay, total, seen, t + 1, lo, hi, touched, 0.3, v)
        summed += eager
        eager *= shrink[t]
        eager[touched] += 0.3 * v
    settle(lazy, moved, decay, total, seen, n_steps)
    np.testing.assert_allclose(lazy, eager, rtol=1e-12)
    np.testing.assert_allclose(total, summed, rtol=1e-10)


def test_a_sum_that_is_not_kept_changes_nothing() -> None:
    decay, seen, none = np.array([1.0, 0.5]), np.array([0.0, 1.0]), np.empty((0, 1))
    w, moved = np.ones((3, 1)), np.zeros(3, np.int64)
    move(w, moved, decay, none, seen, 1, 0, 3, np.array([1], np.int32), 2.0, np.ones((1, 1)))
    settle(w, moved, decay, none, seen, 1)
    np.testing.assert_array_equal(w[:, 0], [0.5, 2.5, 0.5])
