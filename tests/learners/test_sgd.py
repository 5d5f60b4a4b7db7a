"""SGD goes where the exact solvers go, slowly, and its certificate never lies about how far it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tutti.errors import DataError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners.sgd import SGD
from tutti.strategies.all_reduce import AllReduce
from tutti.strategies.local_sgd import LocalSGD
from tutti.testing.learner import check_learner
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Csr, Schema

X, Y = load_breast_cancer(return_X_y=True)
X, Y = StandardScaler().fit_transform(X), Y.astype(np.int32)
SCHEMA = Schema(len(Y), X.shape[1], classes=(0, 1), weight_sum=float(len(Y)))


def run(
    learner: SGD, shards: dict | None = None, schema: Schema = SCHEMA, seed: int = 0, strategy: Any = None
) -> tuple:
    learner.prepare(schema)
    worker = LocalWorker(schema, shards or cut(X, Y), seed)
    shared = (strategy or AllReduce()).run(worker, learner)
    return shared, learner.progress(shared), worker.events


def test_it_reaches_the_optimum_it_claims_and_never_claims_too_much() -> None:
    reference = LogisticRegression(C=0.01, tol=1e-12, max_iter=10_000).fit(X, Y)
    margins = np.where(Y == 1, 1, -1) * reference.decision_function(X)
    optimum = 0.5 * np.sum(reference.coef_**2) + 0.01 * np.logaddexp(0, -margins).sum()
    _, progress, events = run(SGD(LinearProblem("logistic", C=0.01), tol=2e-2, max_iter=200, batch_size=256))
    assert progress.converged
    assert progress.objective - optimum <= progress.gap <= 2e-2 * progress.objective
    judged = [e for e in events if np.isfinite(e.gap)]
    assert all(e.objective - optimum <= e.gap for e in judged)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "strategy",
    [LocalSGD(4), pytest.param(LocalSGD(4, "nesterov", 0.7, 0.5), marks=pytest.mark.thorough)],
    ids=["average", "nesterov"],
)
def test_own_steps_of_shards_end_with_a_certificate_too(strategy: Any) -> None:
    learner = SGD(LinearProblem("logistic", C=0.01), tol=5e-2, max_iter=200, batch_size=64)
    _, progress, events = run(learner, strategy=strategy)
    _, synchronous, _ = run(learner)
    assert progress.converged
    assert abs(progress.objective - synchronous.objective) <= max(progress.gap, synchronous.gap)
    assert [e.kind for e in events[1:5]] == ["delta", "delta", "delta", "summary"]  # 9 steps, then a look at all rows


def test_one_own_step_is_a_synchronous_one() -> None:
    learner = SGD(LinearProblem("squared_hinge", C=0.1), max_iter=5, batch_size=128)
    ours, theirs = run(learner, strategy=LocalSGD(1))[0], run(learner)[0]
    np.testing.assert_allclose(ours["coef"], theirs["coef"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("intercept", ["free", "regularised", "none"])
def test_every_loss_falls_below_a_trivial_model(loss: str, intercept: str) -> None:
    _, progress, _ = run(SGD(LinearProblem(loss, C=1.0, intercept=intercept), max_iter=5, batch_size=64))
    assert progress.done
    assert progress.objective < 0.3 * len(Y)


def test_least_squares_without_a_penalty_says_that_it_has_no_certificate() -> None:
    r = np.random.default_rng(0)
    x = r.standard_normal((400, 3))
    y = x @ np.arange(3.0) + 1 + 0.01 * r.standard_normal(400)
    schema = Schema(400, 3, weight_sum=400.0)
    shared, progress, _ = run(SGD(LinearProblem("squared", C=np.inf), batch_size=32), cut(x, y), schema)
    np.testing.assert_allclose(shared["coef"][:, 0], np.arange(3.0), atol=0.02)
    assert not progress.converged


def test_the_order_of_rows_depends_on_the_seed_alone() -> None:
    learner = SGD(LinearProblem("hinge"), max_iter=2, batch_size=32)
    a, b, c = (run(learner, seed=s)[0]["w"] for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_streamed_shard_gives_every_row_once_an_epoch() -> None:
    from tutti.learners.sgd import batch

    shard = MemoryShard(3, np.arange(1003.0)[:, None], np.zeros(1003, np.int32), block_rows=100)
    seen = []
    for step in range(7):
        for rows in batch(shard, 0, 2, step, 7):
            seen += [rows.block.start + i for s in rows.starts for i in range(s, min(s + rows.size, len(rows.block.y)))]
    assert sorted(seen) == list(range(1003))


@pytest.mark.parametrize("sparse", [False, True])
def test_it_keeps_the_contract(sparse: bool) -> None:
    import scipy.sparse as sp

    a = sp.csr_matrix(X)
    x = Csr(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, X.shape[1]) if sparse else X
    schema = Schema(len(Y), X.shape[1], classes=(0, 1), weight_sum=float(len(Y)), sparse=sparse)
    check_learner(SGD(LinearProblem("logistic")), schema, cut(x, Y, n_shards=3))


def test_a_value_that_is_not_finite_is_located() -> None:
    x = X.copy()
    x[500, 7] = np.nan
    with pytest.raises(DataError, match=r"column 7: Input X contains NaN\."):
        run(SGD(max_iter=1), cut(x, Y))


def test_what_it_cannot_minimise_is_refused() -> None:
    with pytest.raises(ParameterError, match="SGD minimises logistic, squared_hinge, hinge, squared"):
        SGD(LinearProblem("multinomial"))
