"""Dual coordinate ascent reaches scikit-learn's optimum, and its certificate is never better than the truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC, LinearSVC

from tutti.errors import DataError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners.dual import DualCoordinateDescent
from tutti.strategies.cocoa import CoCoA
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Csr, Order, Schema, Update

NAMES = {"breast_cancer": load_breast_cancer, "digits": load_digits, "iris": load_iris}


def real(name: str) -> tuple[Any, Any]:
    bunch = NAMES[name]()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = bunch.data[order]
    return (x - x.mean(0)) / (x.std(0) + 1e-12), bunch.target[order].astype(np.int32)


def sparse(n: int = 400, d: int = 60, seed: int = 0) -> tuple[Csr, Any, Any]:
    r = np.random.default_rng(seed)
    x = np.where(r.random((n, d)) < 0.1, r.random((n, d)), 0.0)
    y = (x @ r.standard_normal(d) + 0.1 * r.standard_normal(n) > 0).astype(np.int32)
    rows, columns = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    return Csr(indptr, columns.astype(np.int32), x[rows, columns], d), y, x


def schema_of(x: Any, y: Any, weight: Any = None) -> Schema:
    weight = np.ones(len(y)) if weight is None else weight
    n, d = x.shape
    is_csr = isinstance(x, Csr)
    common = {"sparse": is_csr, "dtype": str(x.values.dtype if is_csr else x.dtype), "weight_sum": float(weight.sum())}
    values = len(x.values) if is_csr else n * d
    if y.dtype.kind == "f":
        return Schema(n, d, n_values=values, **common)
    k = int(y.max()) + 1
    sums = tuple(np.bincount(y, weight, minlength=k).tolist())
    counts = tuple(np.bincount(y, minlength=k).tolist())
    return Schema(n, d, tuple(range(k)), sums, counts, n_values=values, **common)


def fit(
    x: Any,
    y: Any,
    problem: LinearProblem,
    tol: float = 1e-6,
    weight: Any = None,
    n_shards: int = 2,
    max_iter: int = 3000,
) -> tuple[Any, Any]:
    learner = DualCoordinateDescent(problem, tol, max_iter)
    worker = LocalWorker(schema_of(x, y, weight), cut(x, y, weight, n_shards))
    shared = CoCoA(merges=2).run(worker, learner)
    return shared, learner.progress(shared)


def objective(problem: LinearProblem, x: Any, y: Any, coef: Any, intercept: Any, weight: Any = None) -> float:
    """P summed over the outputs, written independently of the library."""
    coef, intercept = np.asarray(coef, float), np.asarray(intercept, float)
    c = problem.C * (np.ones(len(y)) if weight is None else weight)
    if problem.class_weight is not None:
        c = c * np.asarray(problem.class_weight)[y]
    u = x @ coef + intercept
    value = 0.5 * (coef**2).sum()
    if problem.intercept == "regularised":
        value += 0.5 * ((intercept / problem.intercept_scaling) ** 2).sum()
    if problem.loss == "squared":
        return float(value + (c * 0.5 * (u[:, 0] - y) ** 2).sum())
    k = u.shape[1]
    s = np.where(y[:, None] == (1 if k == 1 else np.arange(k)), 1.0, -1.0)
    m = s * u
    loss = {"hinge": np.maximum(0, 1 - m), "squared_hinge": np.maximum(0, 1 - m) ** 2, "logistic": np.logaddexp(0, -m)}
    return float(value + (c[:, None] * loss[problem.loss]).sum())


def agrees(problem: LinearProblem, x: Any, y: Any, shared: Any, p: Any, best: float, weight: Any = None) -> None:
    mine = objective(problem, x, y, shared["coef"], shared["intercept"], weight)
    assert p.converged
    assert p.objective == pytest.approx(mine, rel=1e-9)
    assert mine - best <= p.gap + 1e-7 * best, "the certificate claims more than is true"
    assert best - mine <= 1e-5 * best, "better than the reference: the reference or the objective is wrong"


@pytest.mark.slow
@pytest.mark.parametrize("c", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_matches_liblinear_with_a_regularised_intercept(loss: Any, c: float) -> None:
    x, y = real("breast_cancer")
    problem = LinearProblem(loss, c, "regularised")
    shared, p = fit(x, y, problem, tol=1e-4)
    theirs = LinearSVC(loss=loss, C=c, tol=1e-10, max_iter=200_000, dual=True).fit(x, y)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_.T, theirs.intercept_))


@pytest.mark.parametrize("c", [1e-3, 1.0])
def test_matches_lbfgs_with_a_free_intercept(c: float) -> None:
    x, y = real("breast_cancer")
    problem = LinearProblem("logistic", c, "free")
    shared, p = fit(x, y, problem, tol=1e-8)
    theirs = LogisticRegression(C=c, tol=1e-12, max_iter=10_000).fit(x, y)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_.T, theirs.intercept_))


def test_matches_liblinear_logistic_with_a_regularised_intercept() -> None:
    x, y = real("breast_cancer")
    problem = LinearProblem("logistic", 1.0, "regularised", intercept_scaling=2.0)
    shared, p = fit(x, y, problem, tol=1e-8)
    theirs = LogisticRegression(solver="liblinear", intercept_scaling=2.0, tol=1e-12, max_iter=10_000).fit(x, y)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_.T, theirs.intercept_))


def test_matches_libsvm_for_a_hinge_with_a_free_intercept() -> None:
    x, y = real("breast_cancer")
    problem = LinearProblem("hinge", 0.05, "free")
    shared, p = fit(x, y, problem, tol=1e-4)
    theirs = SVC(kernel="linear", C=0.05, tol=1e-10).fit(x, y)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_.T, theirs.intercept_))


@pytest.mark.parametrize("fit_intercept", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_matches_ridge(fit_intercept: bool) -> None:
    x, _ = real("breast_cancer")
    y = x[:, 0] * 2 - x[:, 3] + 5.0 + np.random.default_rng(1).standard_normal(len(x))
    problem = LinearProblem("squared", 0.1, "free" if fit_intercept else "none")
    shared, p = fit(x, y, problem, tol=1e-6)
    theirs = Ridge(alpha=10.0, fit_intercept=fit_intercept).fit(x, y)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_[:, None], np.atleast_1d(theirs.intercept_)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "digits"])
@pytest.mark.parametrize("intercept", ["free", "regularised"])
def test_all_outputs_of_one_against_the_rest_in_one_pass(name: str, intercept: Any) -> None:
    x, y = real(name)
    problem = LinearProblem("logistic", 0.1, intercept)
    shared, p = fit(x, y, problem, tol=1e-8)
    best = 0.0
    for k in range(int(y.max()) + 1):
        solver = {"solver": "liblinear"} if intercept == "regularised" else {}
        theirs = LogisticRegression(C=0.1, tol=1e-12, max_iter=10_000, **solver).fit(x, y == k)
        one = (y == k).astype(np.int32)
        best += objective(problem, x, one, theirs.coef_.T, theirs.intercept_)
    agrees(problem, x, y, shared, p, best)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
def test_sparse_rows_give_what_dense_rows_give(loss: Any, dtype: str) -> None:
    csr, y, x = sparse()
    csr, x = replace(csr, values=csr.values.astype(dtype)), x.astype(dtype)
    problem = LinearProblem(loss, 0.2, "free")
    (_, p), (_, q) = fit(csr, y, problem, tol=1e-4), fit(x, y, problem, tol=1e-4)
    assert p.converged
    assert q.converged
    assert abs(p.objective - q.objective) <= p.gap + q.gap


@pytest.mark.parametrize("classes", [2, 3])
def test_sparse_rows_of_several_classes(classes: int) -> None:
    csr, y, x = sparse()
    y = (y + (np.arange(len(y)) % 3 == 0)).astype(np.int32) % classes
    problem = LinearProblem("logistic", 1.0, "regularised")
    (_, p), (_, q) = fit(csr, y, problem, tol=1e-7), fit(x, y, problem, tol=1e-7)
    assert abs(p.objective - q.objective) <= p.gap + q.gap


def test_sample_and_class_weights_count_and_a_weight_of_zero_drops_the_row() -> None:
    x, y = real("breast_cancer")
    weight = np.random.default_rng(2).random(len(y))
    weight[::5] = 0.0
    problem = LinearProblem("logistic", 1.0, "free", class_weight=(3.0, 0.5))
    shared, p = fit(x, y, problem, tol=1e-8, weight=weight)
    theirs = LogisticRegression(class_weight={0: 3.0, 1: 0.5}, tol=1e-12, max_iter=10_000).fit(x, y, weight)
    agrees(problem, x, y, shared, p, objective(problem, x, y, theirs.coef_.T, theirs.intercept_, weight), weight)


@pytest.mark.thorough
@pytest.mark.parametrize("c", [1e-3, 100.0])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
@pytest.mark.parametrize("intercept", ["none", "free", "regularised"])
def test_every_certificate_bounds_the_true_distance(loss: Any, intercept: Any, c: float) -> None:
    csr, y, x = sparse(200, 20)
    problem = LinearProblem(loss, c, intercept)
    learner = DualCoordinateDescent(problem, 1e-9, 100_000)
    worker = LocalWorker(schema_of(csr, y), cut(csr, y, n_shards=3))
    shared = learner.init(worker.schema, seed=0)
    private = {s: learner.adopt(worker.schema, d) for s, d in worker.shards.items()}
    seen = []
    for epoch in range(12):
        shared, private = one_round(learner, worker, shared, private, epoch)
        shared = judged(learner, worker, shared, private)
        p = learner.progress(shared)
        seen.append((p.objective, p.gap))
    reference, q = fit(x, y, problem, tol=1e-6, n_shards=1, max_iter=20_000)
    low, high = q.objective - q.gap, objective(problem, x, y, reference["coef"], reference["intercept"])
    assert all(found >= low - 1e-9 * abs(low) for found, _ in seen)
    assert all(found - gap <= high + 1e-9 * abs(high) for found, gap in seen)


def one_round(learner: Any, worker: Any, shared: Any, private: Any, epoch: int, sigma: float = 1.0) -> tuple[Any, Any]:
    hints = {"sigma": sigma, "n_shards": float(worker.n_shards), "merges": 1.0}
    order = {s: Order(epoch, "dual", 0, s, (0, 1), epoch, hints) for s in worker.shards}
    proposals = {s: learner.propose(shared, private[s], d, order[s]) for s, d in worker.shards.items()}
    merged = worker.merge({s: p.update for s, p in proposals.items()})
    eta = learner.line_search(shared, merged)
    shared = learner.apply(shared, merged, eta)
    return shared, {s: learner.commit(private[s], p, eta) for s, p in proposals.items()}


def judged(learner: Any, worker: Any, shared: Any, private: Any) -> Any:
    updates = {
        s: learner.propose(shared, private[s], d, Order(0, "summary", 0, s)).update for s, d in worker.shards.items()
    }
    return learner.apply(shared, worker.merge(updates), 1.0)


@pytest.mark.parametrize("sigma", [0.125, 1.0])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
def test_the_dual_never_falls_however_bold_the_shards_are(loss: Any, sigma: float) -> None:
    x, y = real("breast_cancer")
    learner = DualCoordinateDescent(LinearProblem(loss, 1.0, "none"), 1e-9)
    worker = LocalWorker(schema_of(x, y), cut(x, y, n_shards=8))
    shared = learner.init(worker.schema, seed=0)
    private = {s: learner.adopt(worker.schema, d) for s, d in worker.shards.items()}
    values = []
    for epoch in range(10):
        shared, private = one_round(learner, worker, shared, private, epoch, sigma)
        shared["dual"][:] = -np.inf
        values.append(float(judged(learner, worker, shared, private)["dual"][0]))
    assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(values))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_w_stays_the_weighted_sum_of_the_rows(dtype: str) -> None:
    csr, y, _ = sparse()
    csr = replace(csr, values=csr.values.astype(dtype))
    learner = DualCoordinateDescent(LinearProblem("logistic", 1.0, "none"), 1e-4)
    worker = LocalWorker(schema_of(csr, y), cut(csr, y, n_shards=4))
    shared = learner.init(worker.schema, seed=0)
    private = {s: learner.adopt(worker.schema, d) for s, d in worker.shards.items()}
    for epoch in range(5):
        shared, private = one_round(learner, worker, shared, private, epoch, 0.3)
    sums = [learner.propose(shared, private[s], d, Order(0, "summary", 0, s)) for s, d in worker.shards.items()]
    v = sum(p.update.arrays["v"].sum(axis=0) for p in sums)
    np.testing.assert_allclose(shared["w"], v, atol=2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_proposing_changes_nothing_and_gives_the_same_bits_again(loss: Any) -> None:
    csr, y, _ = sparse()
    learner = DualCoordinateDescent(LinearProblem(loss, 1.0, "free"), 1e-6)
    worker = LocalWorker(schema_of(csr, y), cut(csr, y, n_shards=2))
    shared = learner.init(worker.schema, seed=0)
    private = {s: learner.adopt(worker.schema, d) for s, d in worker.shards.items()}
    for epoch in range(3):
        shared, private = one_round(learner, worker, shared, private, epoch)
    before = [private[0].a.copy(), private[0].rest.copy(), {k: v.copy() for k, v in shared.items()}]
    order = Order(3, "dual", 0, 0, (1, 2), 3, {"sigma": 1.0, "n_shards": 2.0, "merges": 1.0})
    first = learner.propose(shared, private[0], worker.shards[0], order).update
    second = learner.propose(shared, private[0], worker.shards[0], order).update
    assert same(first, second)
    assert private[0].a.tobytes() == before[0].tobytes()
    assert private[0].rest.tobytes() == before[1].tobytes()
    assert all(shared[k].tobytes() == v.tobytes() for k, v in before[2].items())


def same(a: Update, b: Update) -> bool:
    return a.arrays.keys() == b.arrays.keys() and all(v.tobytes() == b.arrays[k].tobytes() for k, v in a.arrays.items())


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_blocks_read_again_and_again_reach_the_same_optimum(loss: Any, kind: str) -> None:
    csr, y, dense = sparse(300, 20)
    x = csr if kind == "sparse" else dense
    problem = LinearProblem(loss, 0.3, "free")
    _, whole = fit(x, y, problem, tol=1e-4)
    learner = DualCoordinateDescent(problem, 1e-4, 3000)
    shards = {s: replace(shard, block_rows=37) for s, shard in cut(x, y, n_shards=2).items()}
    shared = CoCoA(merges=2).run(LocalWorker(schema_of(x, y), shards), learner)
    blocks = learner.progress(shared)
    assert blocks.converged
    assert abs(blocks.objective - whole.objective) <= blocks.gap + whole.gap


def test_empty_and_ragged_shards_and_shards_of_one_class() -> None:
    _, y, x = sparse(301, 20)
    order = np.argsort(y, kind="stable")
    y, x = y[order], x[order]
    edges = [0, 0, 7, 150, 150, 301]
    shards = {s: MemoryShard(s, x[a:b], y[a:b]) for s, (a, b) in enumerate(pairwise(edges))}
    problem = LinearProblem("logistic", 1.0, "free")
    learner = DualCoordinateDescent(problem, 1e-5, 3000)
    shared = CoCoA(merges=4).run(LocalWorker(schema_of(x, y), shards), learner)
    _, q = fit(x, y, problem, tol=1e-7)
    p = learner.progress(shared)
    assert p.converged
    assert abs(p.objective - q.objective) <= p.gap + q.gap


@pytest.mark.parametrize("bad, words", [(np.nan, "contains NaN"), (np.inf, "contains infinity"), (1e200, "too large")])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_value_that_is_not_finite_is_located(kind: str, bad: float, words: str) -> None:
    csr, y, x = sparse(50, 10)
    row = int(np.flatnonzero(np.diff(csr.indptr) > 1)[-1])
    at = int(csr.indptr[row]) + 1
    column = int(csr.indices[at])
    csr.values[at] = x[row, column] = bad
    data: Any = csr if kind == "sparse" else x
    learner = DualCoordinateDescent(LinearProblem("hinge"))
    with pytest.raises(DataError, match=words) as error:
        learner.adopt(schema_of(data, y), MemoryShard(0, data, y))
    assert (error.value.row, error.value.column) == (row, column)


def test_stops_honestly_when_it_runs_out_of_epochs() -> None:
    x, y = real("breast_cancer")
    problem = LinearProblem("hinge", 1000.0, "free")
    shared, p = fit(x, y, problem, tol=1e-8, max_iter=3)
    assert p.done
    assert not p.converged
    assert p.objective == pytest.approx(objective(problem, x, y, shared["coef"], shared["intercept"]), rel=1e-9)
    assert p.gap > 1e-8 * p.objective


def test_float32_only_where_the_data_and_the_tolerance_allow_it() -> None:
    csr, y, _ = sparse()
    single = schema_of(replace(csr, values=csr.values.astype(np.float32)), y)
    assert DualCoordinateDescent(tol=1e-3).dtype(single) == np.float32
    assert DualCoordinateDescent(tol=1e-6).dtype(single) == np.float64
    assert DualCoordinateDescent(tol=1e-3).dtype(schema_of(csr, y)) == np.float64


@pytest.mark.parametrize(
    "change, name",
    [
        ({"problem": LinearProblem("multinomial")}, "loss"),
        ({"problem": LinearProblem("squared", float("inf"))}, "C"),
        ({"tol": 0.0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_what_it_cannot_solve_is_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ParameterError) as error:
        DualCoordinateDescent(**change)
    assert error.value.name == name


def test_a_weight_that_no_row_touches_changes_by_exactly_nothing() -> None:
    csr, y, _ = sparse(n=200, d=60)
    used = csr.indices != 7
    indptr = np.concatenate([[0], np.cumsum(used)])[csr.indptr]
    csr = Csr(indptr, csr.indices[used], csr.values[used].astype(np.float32), 60)
    learner = DualCoordinateDescent(LinearProblem("hinge"), tol=1e-3)
    schema = schema_of(csr, y)
    shared = learner.init(schema, seed=0)
    shared["w"][:, 0] = np.random.default_rng(1).standard_normal(60)
    data = cut(csr, y, n_shards=1)[0]
    private = learner.adopt(schema, data)
    order = Order(0, "dual", 0, 0, (0, 1), 0, {"n_shards": 8.0, "merges": 3.0})
    dw = learner.propose(shared, private, data, order).update.arrays["dw"][:, 0]
    assert dw[7] == 0.0
    assert np.count_nonzero(dw) > 40


def test_the_judged_point_is_the_mean_of_an_epoch_that_weighs_the_late_merges_most() -> None:
    x, y = real("breast_cancer")
    worker = LocalWorker(schema_of(x, y), cut(x, y, n_shards=2))
    learner = Spy(LinearProblem("logistic"), tol=1e-12, max_iter=3)
    shared = CoCoA(merges=4).run(worker, learner)
    points, covered = zip(*SEEN[-4:], strict=True)
    SEEN.clear()
    mean = np.average(points, axis=0, weights=np.cumsum(covered))
    np.testing.assert_allclose(shared["mean"][:, 0], mean, rtol=1e-12)


SEEN: list[Any] = []


class Spy(DualCoordinateDescent):
    """Writes down where every merge led."""

    def apply(self, shared: Any, merged: Update, scale: Any) -> Any:
        result = super().apply(shared, merged, scale)
        if merged.kind == "dual":
            SEEN.append((result["w"][:, 0].copy(), merged.arrays["seen"][2]))
        return result
