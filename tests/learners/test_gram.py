"""Gram against scikit-learn's direct solvers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge

from tutti.errors import DataError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners.gram import Gram
from tutti.strategies.all_reduce import AllReduce
from tutti.testing.learner import check_learner
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Csr, Schema

X, Y = load_diabetes(return_X_y=True, scaled=False)
W = np.random.default_rng(0).random(len(Y)) + 0.1


def fit(x: object, y: np.ndarray, problem: LinearProblem, weight: object = None, **how: object) -> tuple:
    n, d = x.shape
    schema = Schema(n, d, weight_sum=float(n), sparse=isinstance(x, Csr), dtype=str(getattr(x, "dtype", "float64")))
    learner = Gram(problem)
    learner.prepare(schema)
    shards = how.get("shards") or cut(x, y, weight)
    shared = AllReduce().run(LocalWorker(schema, shards), learner)
    return shared["coef"][:, 0], float(shared["intercept"][0]), learner.progress(shared)


def csr(x: np.ndarray) -> Csr:
    import scipy.sparse as sp

    a = sp.csr_matrix(x)
    return Csr(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, x.shape[1])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weight", [None, W])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("intercept", ["free", "none"])
def test_ridge_is_scikit_learns_ridge(intercept: str, alpha: float, weight: object, sparse: bool) -> None:
    reference = Ridge(alpha=alpha, fit_intercept=intercept == "free", solver="cholesky").fit(X, Y, weight)
    problem = LinearProblem("squared", C=1 / alpha, intercept=intercept)
    coef, b, progress = fit(csr(X) if sparse else X, Y, problem, weight)
    np.testing.assert_allclose(coef, reference.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(b, reference.intercept_, rtol=1e-7, atol=1e-9)
    weights = np.ones(len(Y)) if weight is None else weight
    objective = 0.5 * reference.coef_ @ reference.coef_ + 0.5 / alpha * weights @ (Y - reference.predict(X)) ** 2
    assert abs(progress.objective - objective) <= progress.gap + 1e-12 * objective
    assert progress.gap <= 1e-8 * objective
    assert progress.converged


def test_a_regularised_intercept_is_a_penalised_constant_column() -> None:
    s = 2.0
    reference = Ridge(alpha=0.1, fit_intercept=False, solver="cholesky").fit(np.c_[X, np.full(len(Y), s)], Y)
    coef, b, _ = fit(X, Y, LinearProblem("squared", C=10.0, intercept="regularised", intercept_scaling=s))
    np.testing.assert_allclose(coef, reference.coef_[:-1], rtol=1e-7)
    np.testing.assert_allclose(b, s * reference.coef_[-1], rtol=1e-7)


def test_collinear_columns_get_the_solution_of_least_norm() -> None:
    x = np.c_[X, X[:, :3] + X[:, 3:6]]
    reference = LinearRegression().fit(x, Y)
    coef, b, _ = fit(x, Y, LinearProblem("squared", C=np.inf))
    np.testing.assert_allclose(x @ coef + b, reference.predict(x), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(coef), np.linalg.norm(reference.coef_), rtol=1e-5)


def test_fewer_rows_than_columns_are_interpolated() -> None:
    r = np.random.default_rng(1)
    x, y = r.standard_normal((20, 50)), r.standard_normal(20)
    coef, b, _ = fit(x, y, LinearProblem("squared", C=np.inf))
    np.testing.assert_allclose(coef, LinearRegression().fit(x, y).coef_, atol=1e-8)
    np.testing.assert_allclose(x @ coef + b, y, atol=1e-8)


def test_huge_means_cost_no_digits() -> None:
    r = np.random.default_rng(2)
    x = 1e6 + r.standard_normal((5000, 5))
    y = 1e7 + x @ np.arange(5.0) + r.standard_normal(5000)
    coef, b, _ = fit(x, y, LinearProblem("squared", C=np.inf))
    reference = LinearRegression().fit(x, y)
    np.testing.assert_allclose(coef, reference.coef_, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(x @ coef + b, reference.predict(x), rtol=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_it_keeps_the_contract(sparse: bool) -> None:
    schema = Schema(len(Y), X.shape[1], weight_sum=float(len(Y)), sparse=sparse)
    check_learner(Gram(LinearProblem("squared")), schema, cut(csr(X) if sparse else X, Y, n_shards=3))


def test_blocks_of_another_size_change_rounding_only() -> None:
    whole = fit(X, Y, LinearProblem("squared"))[0]
    blocks = {s: MemoryShard(s, d.x, d.y, None, block_rows=7) for s, d in cut(X, Y).items()}
    np.testing.assert_allclose(fit(X, Y, LinearProblem("squared"), shards=blocks)[0], whole, rtol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 441])
def test_a_value_that_is_not_finite_is_located(row: int, value: float) -> None:
    x = X.copy()
    x[row, 4] = value
    with pytest.raises(DataError, match=rf"column 4: Input X contains {'NaN' if np.isnan(value) else 'infinity'}"):
        fit(x, Y, LinearProblem("squared"))


def test_other_losses_are_refused() -> None:
    with pytest.raises(ParameterError, match="Gram solves 'squared' only"):
        Gram(LinearProblem("hinge"))
