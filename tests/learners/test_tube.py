"""The epsilon-insensitive loss: libsvm's minimum, an honest certificate, the same bits, rows easy to get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.svm import SVR
from sklearn.svm import LinearSVR as LibLinear

import tutti
from tutti.errors import ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners.dual import DualCoordinateDescent
from tutti.learners.lbfgs import LBFGS
from tutti.learners.newton import SampledNewton
from tutti.learners.sgd import SGD
from tutti.planner.choose import choose
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import draft_plan, train
from tutti.strategies.all_reduce import AllReduce
from tutti.testing.local import LocalWorker, cut
from tutti.types import Csr, Schema

R = np.random.default_rng(0)


def made(n: int = 400, d: int = 6, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, d))
    return x, x @ r.standard_normal(d) + noise * r.standard_normal(n)


def solve(
    x: Any, y: np.ndarray, problem: LinearProblem, weight: Any = None, shards: Any = None, tol: float = 1e-6
) -> tuple[Any, Any]:
    n, d = x.shape
    dtype = x.values.dtype if isinstance(x, Csr) else x.dtype
    schema = Schema(n, d, weight_sum=float(n), sparse=isinstance(x, Csr), dtype=str(dtype))
    learner = SampledNewton(problem, tol=tol)
    learner.prepare(schema)
    shared = AllReduce().run(LocalWorker(schema, shards or cut(x, y, weight)), learner)
    return shared, learner.progress(shared)


def primal(x: np.ndarray, y: np.ndarray, c: Any, epsilon: float, w: np.ndarray, b: float, ridge: float = 0.0) -> float:
    loss = np.maximum(np.abs(y - x @ w - b) - epsilon, 0.0)
    return float(0.5 * w @ w + 0.5 * ridge * b * b + np.sum(c * loss))


@pytest.mark.thorough
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("C", "epsilon"), [(1e-3, 0.1), (1.0, 0.5), (100.0, 0.0), (1.0, 2.0)])
def test_it_finds_libsvms_minimum_and_proves_it(C: float, epsilon: float, offset: float) -> None:
    x, y = made()
    weight = R.random(len(y)) + 0.2
    weight[:7] = 0.0
    shared, progress = solve(x, y + offset, LinearProblem("epsilon_insensitive", C, epsilon=epsilon), weight)
    w, b = shared["coef"][:, 0], float(shared["intercept"][0])
    value = primal(x, y + offset, C * weight, epsilon, w, b)
    rival = SVR(kernel="linear", C=C, epsilon=epsilon, tol=1e-10).fit(x, y, weight)
    reference = primal(x, y, C * weight, epsilon, rival.coef_[0], float(rival.intercept_[0]))
    assert progress.converged
    assert progress.objective == pytest.approx(value, rel=1e-9)
    assert progress.gap <= 1e-6 * value
    assert value <= reference * (1 + 1e-6)
    assert value - progress.gap <= reference * (1 + 1e-9)  # no proof of more than is true


@pytest.mark.parametrize("intercept", ["none", "regularised"])
def test_other_intercepts_reach_liblinears_minimum(intercept: Any) -> None:
    x, y = made()
    problem = LinearProblem("epsilon_insensitive", 0.5, intercept=intercept, epsilon=0.3)
    shared, progress = solve(x, y, problem)
    w, b = shared["coef"][:, 0], float(shared["intercept"][0])
    ridge = float(intercept == "regularised")
    rival = LibLinear(C=0.5, epsilon=0.3, fit_intercept=bool(ridge), tol=1e-9, max_iter=200_000).fit(x, y)
    reference = primal(x, y, 0.5, 0.3, rival.coef_, float(np.ravel(rival.intercept_)[0]) if ridge else 0.0, ridge)
    assert progress.gap <= 1e-6 * progress.objective
    assert primal(x, y, 0.5, 0.3, w, b, ridge) <= reference * (1 + 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_rows_give_the_minimum_of_dense_ones(dtype: str) -> None:
    import scipy.sparse as sp

    x, y = made(600, 12)
    x = np.where(np.abs(x) > 0.8, x, 0.0).astype(dtype)
    a = sp.csr_matrix(x)
    rows = Csr(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, 12)
    problem = LinearProblem("epsilon_insensitive", 1.0, epsilon=0.1)
    values = [solve(each, y, problem)[1].objective for each in (x, rows)]
    assert values[0] == pytest.approx(values[1], rel=2e-6)


@pytest.mark.parametrize(
    "y",
    [np.full(50, 3.0), np.linspace(-1, 1, 50) * 0.09 + 5, np.repeat([0.0, 0.15], [49, 1]), np.full(50, 1e9)],
    ids=["one value", "all within the tube", "off the middle of the tube", "one large value"],
)
def test_targets_that_fit_into_the_tube_cost_nothing(y: np.ndarray) -> None:
    x = R.standard_normal((50, 3))
    shared, progress = solve(x, y, LinearProblem("epsilon_insensitive", 10.0, epsilon=0.1))
    assert progress.converged
    assert progress.objective == pytest.approx(0.0, abs=1e-9)
    assert np.abs(x @ shared["coef"][:, 0] + shared["intercept"][0] - y).max() <= 0.1 + 1e-6 * abs(y).max()


def test_few_rows_wide_rows_empty_shards_and_heavy_tails() -> None:
    problem = LinearProblem("epsilon_insensitive", 1.0, epsilon=0.1)
    x, y = made(5, 2)
    assert solve(x, y, problem, shards=cut(x, y, None, 13))[1].converged
    x, y = made(30, 80, noise=0.0)
    assert solve(x, y, problem)[1].converged
    x, y = made(2000, 5)
    y = y + np.random.default_rng(3).standard_cauchy(len(y)) * 100
    assert solve(x, y, problem, tol=1e-4)[1].converged


def test_it_takes_a_dozen_steps_whatever_the_regularisation() -> None:
    x, y = made(5000, 20)
    for C in (1e-4, 1.0, 1e4):
        progress = solve(x, y, LinearProblem("epsilon_insensitive", C, epsilon=0.2), tol=1e-3)[1]
        assert progress.converged
        assert progress.passes <= 40  # a step looks at the rows three times


@pytest.mark.thorough
def test_the_same_bits_for_any_number_of_workers() -> None:
    x, y = made(1003, 7)
    data = tutti.from_arrays(x, y)
    schema, found = data.schema("regression"), set()
    for engine in (*map(tutti.Threads, (1, 2, 3, 5, 8)), tutti.Processes(3)):
        choice = choose(LinearProblem("epsilon_insensitive", 1.0, epsilon=0.1), schema, engine=engine)
        plan = draft_plan(data, schema, choice.learner, choice.strategy, engine, 8)
        result = train(
            choice.learner, data, schema=schema, strategy=choice.strategy, engine=engine, plan=plan, n_shards=8, seed=0
        )
        found.add(model_sha256({name: np.asarray(result.arrays[name]) for name in ("coef", "intercept")}))
    assert len(found) == 1


@pytest.mark.parametrize("learner", [LBFGS, DualCoordinateDescent, SGD])
def test_solvers_that_cannot_refuse_it(learner: Any) -> None:
    with pytest.raises(ParameterError, match="epsilon_insensitive"):
        learner(LinearProblem("epsilon_insensitive"))
