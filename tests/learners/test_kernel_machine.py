"""Kernel machines to the bits: optimality for every kernel and kind of weight, and cores that have nothing to do."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from sklearn import svm

import tutti
from tutti.learners._kernel_rows import Kernel, points
from tutti.learners._pieces import PIECE, Pieces, alone, even
from tutti.learners.kernel_svm import KernelMachine, KernelProblem
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import train
from tutti.strategies.task_parallel import TaskParallel

R = np.random.default_rng(1)
X = R.standard_normal((600, 6))
Y = (X[:, 0] * X[:, 1] + 0.5 * X[:, 2] + 0.3 * R.standard_normal(600) > 0.4).astype(int)
WEIGHT = R.integers(0, 4, 600) / 2.0
LONG = R.standard_normal((3 * PIECE - 100, 5))
LONG_Y = (LONG[:, 0] * LONG[:, 1] + 0.3 * R.standard_normal(len(LONG)) > 0).astype(int)


def fitted(problem: KernelProblem, weight: Any, leaf_rows: int, engine: Any) -> Any:
    data = tutti.from_arrays(X, Y, sample_weight=weight)
    learner = KernelMachine(problem, leaf_rows=leaf_rows)
    schema = data.schema("classification")
    return train(learner, data, schema=schema, strategy=TaskParallel(), engine=engine)


@pytest.mark.thorough
@pytest.mark.parametrize("leaf_rows", [32768, 200], ids=["whole", "cascade"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "sample weights"])
@pytest.mark.parametrize("factors", [None, (3.0, 0.5)], ids=["", "class weights"])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
def test_every_row_satisfies_the_optimality(kernel: Any, factors: Any, weight: Any, leaf_rows: int) -> None:
    problem = KernelProblem(kernel, C=0.5, gamma=0.02 if kernel == "sigmoid" else 0.2, coef0=0.1, class_weight=factors)
    result = fitted(problem, weight, leaf_rows, tutti.Threads(2))
    assert result.progress.converged
    bound = 0.5 * (np.ones(600) if weight is None else weight) * np.array(factors or (1.0, 1.0))[Y]
    t, beta = np.where(Y == 0, 1.0, -1.0), np.zeros(600)
    beta[result.arrays["row"]] = result.arrays["dual"][0]
    inner = X @ X.T
    products = problem.gamma * inner + 0.1
    squares = np.diag(inner)
    rbf = np.exp(-0.2 * (squares[:, None] + squares - 2 * inner))
    k = {"linear": inner, "rbf": rbf, "poly": products**3, "sigmoid": np.tanh(products)}[kernel]
    f = t - k @ beta
    low, high = np.where(t > 0, 0, -bound), np.where(t > 0, bound, 0)
    assert (low <= beta).all()
    assert (beta <= high).all()
    assert abs(beta.sum()) < 1e-8
    assert f[beta < high].max() - f[beta > low].min() < 1.5e-3


@pytest.mark.parametrize(("factors", "weight"), [("balanced", None), ({0: 3.0, 1: 0.5}, WEIGHT), (None, WEIGHT)])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
def test_accuracy_is_that_of_scikit_learn(kernel: Any, factors: Any, weight: Any) -> None:
    params = {"kernel": kernel, "class_weight": factors, "gamma": 0.02 if kernel == "sigmoid" else 0.2}
    ours, theirs = (m(**params).fit(X, Y, sample_weight=weight) for m in (tutti.SVC, svm.SVC))
    assert abs(ours.score(X, Y) - theirs.score(X, Y)) <= 0.001


def test_one_pair_has_the_same_bits_for_any_number_of_workers() -> None:
    engines = [*map(tutti.Threads, (1, 2, 3, 5, 8)), tutti.Processes(2)]
    models = [tutti.SVC(engine=e).fit(LONG, LONG_Y) for e in engines]
    assert len({m.report_.sha256 for m in models}) == 1


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5, 8])
def test_a_cascade_has_the_same_bits_for_any_number_of_workers(n_workers: int) -> None:
    def sha(engine: Any) -> str:
        return model_sha256(fitted(KernelProblem(), WEIGHT, 150, engine).arrays)

    assert sha(tutti.Threads(n_workers)) == sha(tutti.Threads(2))


def test_a_class_of_few_rows_is_missing_in_most_leaves() -> None:
    y = np.zeros(600, int)
    y[[10, 300, 599]] = 1
    data = tutti.from_arrays(X, y)
    learner = KernelMachine(leaf_rows=50)
    result = train(
        learner, data, schema=data.schema("classification"), strategy=TaskParallel(), engine=tutti.Threads(2)
    )
    assert result.progress.converged
    whole = tutti.SVC().fit(X, y)
    assert set(result.arrays["row"]) >= {10, 300, 599}
    np.testing.assert_allclose(result.arrays["objective"], [whole.objective_], rtol=1e-3)


def test_pieces_are_done_once_by_as_many_threads_as_there_are() -> None:
    done, both = np.zeros(1000, int), threading.Barrier(3)

    def work(lo: int, hi: int) -> None:
        done[lo:hi] += 1
        if lo < 30:
            both.wait(timeout=30)  # the first three pieces are at work at the same time

    with Pieces(lambda: 3) as pieces:
        pieces.each(work, 1000, 10)
    assert (done == 1).all()
    assert not [t for t in threading.enumerate() if t.name.startswith("tutti-piece")]


def test_an_error_in_a_piece_reaches_the_caller() -> None:
    def work(lo: int, hi: int) -> None:
        raise ValueError(f"piece {lo}")

    with Pieces(lambda: 2) as pieces, pytest.raises(ValueError, match="piece"):
        pieces.each(work, 100, 10)


def test_no_piece_is_begun_after_an_error() -> None:
    begun: list[int] = []

    def work(lo: int, hi: int) -> None:
        begun.append(lo)
        raise ValueError(f"piece {lo}")

    with Pieces(lambda: 2) as pieces, pytest.raises(ValueError, match="piece"):
        pieces.each(work, 1000, 10)
    assert len(begun) <= 2


@pytest.mark.parametrize("n", [0, 1, 15, 16, 129, 300, 1000, 1025, 5000, 8193, 10**6])
def test_pieces_are_large_and_as_many_as_threads_share_evenly(n: int) -> None:
    piece = even(n)
    assert piece <= PIECE
    assert piece % 16 == 0
    assert piece >= min(n, PIECE // 8)
    for threads in (2, 4, 8):
        longest = piece * np.ceil(np.ceil(n / piece) / threads)  # rows of the thread with most pieces
        assert n < PIECE or longest <= 1.15 * n / threads


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(1600,), (1600, 1), (1600, 3)])
@pytest.mark.parametrize("name", ["linear", "rbf", "poly", "sigmoid"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_of_a_kernel_do_not_depend_on_the_threads(name: Any, dtype: str, shape: tuple[int, ...]) -> None:
    kernel, some = Kernel(name, 0.2, 0.1), points(LONG[:1600], dtype)
    coefficients = R.standard_normal(shape)
    coefficients[:1100].reshape(1100, -1)[:, 2:] = 0  # support vectors of another pair
    with Pieces(lambda: 3) as pieces:
        found = kernel.times(some, some, coefficients, pieces)
    np.testing.assert_array_equal(found, kernel.times(some, some, coefficients, Pieces(alone)))
    whole = kernel.block(some, some).astype(np.float64) @ coefficients
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6 * np.abs(whole).max())
    assert found.shape == shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_support_vectors_a_sum_is_zero(dtype: str) -> None:
    some, none = points(X, dtype), points(X[:0], dtype)
    for shape in ((0,), (0, 1), (0, 3)):
        found = Kernel().times(some, none, np.empty(shape), Pieces(alone))
        np.testing.assert_array_equal(found, np.zeros((600, *shape[1:])))


def test_lengths_of_float32_rows_are_those_of_float64() -> None:
    rows = (1e3 + LONG).astype(np.float32)
    np.testing.assert_allclose(points(rows, "float32").squares, (rows.astype(np.float64) ** 2).sum(axis=1), rtol=1e-14)


def test_exp_of_a_float32_block_is_close() -> None:
    x, y = R.standard_normal((50, 4)), 3 * R.standard_normal((60, 4))
    exact = Kernel("rbf", 0.7).block(points(x, "float64"), points(y, "float64"))
    np.testing.assert_allclose(Kernel("rbf", 0.7).block(points(x, "float32"), points(y, "float32")), exact, atol=1e-6)
