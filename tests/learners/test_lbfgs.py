"""L-BFGS against scikit-learn's optimum at tight tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from tutti.errors import DataError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners.lbfgs import LBFGS
from tutti.strategies.all_reduce import AllReduce
from tutti.testing.learner import check_learner
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Csr, Schema


def schema_of(x: object, y: np.ndarray, classes: tuple | None) -> Schema:
    n, d = x.shape
    dtype = x.values.dtype if isinstance(x, Csr) else x.dtype
    return Schema(n, d, classes=classes, weight_sum=float(n), sparse=isinstance(x, Csr), dtype=str(dtype))


def run(x: object, y: np.ndarray, learner: LBFGS, weight: object = None, shards: dict | None = None) -> tuple:
    regression = learner.problem.loss == "squared"
    y = y.astype(np.float64) if regression else y.astype(np.int32)
    schema = schema_of(x, y, None if regression else tuple(range(int(y.max()) + 1)))
    learner.prepare(schema)
    worker = LocalWorker(schema, shards or cut(x, y, weight))
    shared = AllReduce().run(worker, learner)
    return shared, learner.progress(shared), worker.events


def csr(x: np.ndarray) -> Csr:
    import scipy.sparse as sp

    a = sp.csr_matrix(x)
    return Csr(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, x.shape[1])


def softmax_objective(x: np.ndarray, y: np.ndarray, coef: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    u = x @ coef + b
    top = u.max(axis=1)
    return float(0.5 * np.sum(coef**2) + c @ (np.log(np.exp(u - top[:, None]).sum(1)) + top - u[np.arange(len(y)), y]))


@pytest.mark.parametrize("load", [load_iris, load_wine, pytest.param(load_digits, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_multinomial_is_scikit_learns_minimum(load: object, sparse: bool, C: float) -> None:
    x, y = load(return_X_y=True)
    weight = np.random.default_rng(0).random(len(y)) + 0.5
    reference = LogisticRegression(C=C, tol=1e-10, max_iter=20_000, solver="newton-cholesky").fit(x, y, weight)
    optimum = softmax_objective(x, y, reference.coef_.T, reference.intercept_, C * weight)
    problem = LinearProblem("multinomial", C=C)
    shared, progress, events = run(csr(x) if sparse else x, y, LBFGS(problem, tol=1e-7, max_iter=3000), weight)
    ours = softmax_objective(x, y, shared["coef"], shared["intercept"], C * weight)
    assert progress.converged
    assert ours <= optimum * (1 + 1e-6)
    assert ours == pytest.approx(progress.objective, rel=1e-9)
    assert all(e.objective - optimum <= e.gap for e in events)


def test_logistic_on_unscaled_columns() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    reference = LogisticRegression(C=1.0, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(x, y)
    margins = np.where(y == 1, 1, -1) * reference.decision_function(x)
    optimum = 0.5 * np.sum(reference.coef_**2) + np.logaddexp(0, -margins).sum()
    _, progress, _ = run(x, y, LBFGS(LinearProblem("logistic"), tol=1e-4, max_iter=5000))
    assert progress.converged
    assert abs(progress.objective - optimum) <= progress.gap


def test_squared_hinge_with_liblinears_intercept() -> None:
    x, y = load_digits(return_X_y=True)
    reference = LinearSVC(C=1e-3, tol=1e-10, max_iter=100_000).fit(x, y)
    signs = np.where(y[:, None] == np.arange(10), 1.0, -1.0)
    lost = np.maximum(0, 1 - signs * reference.decision_function(x)) ** 2
    optimum = 0.5 * np.sum(reference.coef_**2) + 0.5 * np.sum(reference.intercept_**2) + 1e-3 * lost.sum()
    problem = LinearProblem("squared_hinge", C=1e-3, intercept="regularised")
    _, progress, _ = run(x, y, LBFGS(problem, tol=1e-7))
    assert progress.converged
    assert progress.objective == pytest.approx(optimum, rel=1e-6)


def test_ridge() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    reference = Ridge(alpha=2.0).fit(x, y)
    optimum = 0.5 * reference.coef_ @ reference.coef_ + 0.25 * np.sum((y - reference.predict(x)) ** 2)
    shared, progress, _ = run(x, y, LBFGS(LinearProblem("squared", C=0.5), tol=1e-9))
    assert progress.converged
    assert progress.objective == pytest.approx(optimum, rel=1e-8)
    np.testing.assert_allclose(shared["coef"][:, 0], reference.coef_, rtol=1e-3, atol=1e-4)


def test_float32_data_changes_to_float64_when_rounding_is_in_the_way() -> None:
    x, y = load_digits(return_X_y=True)
    _, progress, _ = run(x.astype(np.float32), y, LBFGS(LinearProblem("multinomial", C=0.01), tol=1e-6))
    assert progress.converged


def test_running_out_of_passes_is_told() -> None:
    x, y = load_digits(return_X_y=True)
    _, progress, _ = run(x, y, LBFGS(LinearProblem("multinomial", C=100.0), tol=1e-8, max_iter=5))
    assert (progress.done, progress.converged, progress.passes) == (True, False, 5.0)


@pytest.mark.parametrize("sparse", [False, True])
def test_it_keeps_the_contract(sparse: bool) -> None:
    x, y = load_iris(return_X_y=True)
    x = csr(x) if sparse else x
    schema = schema_of(x, y, (0, 1, 2))
    check_learner(LBFGS(LinearProblem("multinomial")), schema, cut(x, y.astype(np.int32), n_shards=3))


def test_blocks_of_another_size_change_rounding_only() -> None:
    x, y = load_wine(return_X_y=True)
    shards = {s: MemoryShard(s, d.x, d.y, None, block_rows=5) for s, d in cut(x, y.astype(np.int32)).items()}
    learner = LBFGS(LinearProblem("multinomial", C=0.1), tol=1e-8, max_iter=3000)
    whole, blocks = run(x, y, learner)[1], run(x, y, learner, shards=shards)[1]
    assert whole.objective == pytest.approx(blocks.objective, rel=1e-7)


def test_a_value_that_is_not_finite_is_located() -> None:
    x, y = load_wine(return_X_y=True)
    x[100, 3] = np.inf
    with pytest.raises(DataError, match="column 3: Input X contains infinity"):
        run(x, y, LBFGS(LinearProblem("multinomial")))


def test_the_hinge_is_refused() -> None:
    with pytest.raises(ParameterError, match="L-BFGS needs a smooth loss"):
        LBFGS(LinearProblem("hinge"))
