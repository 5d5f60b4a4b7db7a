"""Sampled Newton against scikit-learn's optimum at tight tolerance, and its certificate at every round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import tutti
from tutti.errors import DataError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.learners._sample import sample_rows
from tutti.learners.newton import SampledNewton
from tutti.strategies.all_reduce import AllReduce
from tutti.testing.learner import check_learner
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Csr, Order, Schema

MARGINS = ("logistic", "hinge", "squared_hinge")
LONG_HINGE = pytest.param("hinge", marks=pytest.mark.thorough)
"""The one loss that is settled from inside takes several times as long as the others."""


def schema_of(x: Any, y: np.ndarray) -> Schema:
    n, d = x.shape
    dtype = x.values.dtype if isinstance(x, Csr) else x.dtype
    classes = tuple(range(int(y.max()) + 1))
    return Schema(n, d, classes=classes, weight_sum=float(n), sparse=isinstance(x, Csr), dtype=str(dtype))


def run(
    x: Any, y: np.ndarray, learner: SampledNewton, weight: Any = None, shards: Any = None, start: Any = None
) -> Any:
    y = y.astype(np.int32)
    schema = schema_of(x, y)
    learner.prepare(schema)
    worker = LocalWorker(schema, shards or cut(x, y, weight), start=start)
    shared = AllReduce().run(worker, learner)
    return shared, learner.progress(shared), worker.events


def csr(x: np.ndarray) -> Csr:
    import scipy.sparse as sp

    a = sp.csr_matrix(x)
    return Csr(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, x.shape[1])


def binary_objective(loss: str, x: np.ndarray, t: np.ndarray, c: Any, w: np.ndarray, b: float, ridge: float) -> float:
    m = t * (x @ w + b)
    cost = {
        "logistic": np.logaddexp(0, -m),
        "hinge": np.maximum(1 - m, 0),
        "squared_hinge": np.maximum(1 - m, 0) ** 2,
    }[loss]
    return float(0.5 * w @ w + 0.5 * ridge * b**2 + np.sum(c * cost))


def rows(n: int, d: int, dtype: str = "float32", seed: int = 0, order: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(dtype)
    z = x @ rng.standard_normal(d) / np.sqrt(d) + 0.3 + 0.7 * rng.standard_normal(n)
    y = (z > 0).astype(np.int32)
    if order:
        by = np.argsort(y, kind="stable")
        x, y = np.ascontiguousarray(x[by]), y[by]
    return x, y


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_logistic_is_scikit_learns_minimum_on_unscaled_columns(sparse: bool, C: float) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    weight = np.random.default_rng(0).random(len(y)) + 0.5
    weight[:9] = 0.0
    t = np.where(y == 1, 1.0, -1.0)
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(x, y, weight)
    least = binary_objective("logistic", x, t, C * weight, reference.coef_[0], reference.intercept_[0], 0)
    shared, progress, _ = run(csr(x) if sparse else x, y, SampledNewton(LinearProblem(C=C), tol=1e-8), weight)
    ours = binary_objective("logistic", x, t, C * weight, shared["coef"][:, 0], shared["intercept"][0], 0)
    assert progress.converged
    assert progress.objective == pytest.approx(ours, rel=1e-9)
    assert ours <= least * (1 + 1e-6)
    assert ours - progress.gap <= least * (1 + 1e-12)


@pytest.mark.parametrize("load", [load_iris, load_wine])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_multinomial_is_scikit_learns_minimum(load: Any, C: float) -> None:
    x, y = load(return_X_y=True)
    balanced = tuple(len(y) / (3.0 * np.bincount(y)))
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=10_000, solver="newton-cholesky", class_weight="balanced")
    reference.fit(x, y)
    problem = LinearProblem("multinomial", C=C, class_weight=balanced)
    shared, progress, _ = run(x, y, SampledNewton(problem, tol=1e-8))

    def objective(coef: np.ndarray, b: np.ndarray) -> float:
        u = x @ coef + b
        u -= u.max(axis=1, keepdims=True)
        lost = np.log(np.exp(u).sum(axis=1)) - u[np.arange(len(y)), y]
        return float(0.5 * np.sum(coef**2) + C * np.sum(np.asarray(balanced)[y] * lost))

    least = objective(reference.coef_.T, reference.intercept_)
    assert progress.converged
    assert objective(shared["coef"], shared["intercept"]) <= least * (1 + 1e-6)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_support_vector_machine_is_liblinears_minimum(loss: str, C: float) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    t = np.where(y == 1, 1.0, -1.0)
    reference = LinearSVC(C=C, loss=loss, tol=1e-10, max_iter=1_000_000, intercept_scaling=2.0, random_state=0).fit(
        x, y
    )
    least = binary_objective(loss, x, t, C, reference.coef_[0], reference.intercept_[0], 0.25)
    problem = LinearProblem(loss, C=C, intercept="regularised", intercept_scaling=2.0)
    shared, progress, _ = run(x, y, SampledNewton(problem, tol=1e-8))
    ours = binary_objective(loss, x, t, C, shared["coef"][:, 0], shared["intercept"][0], 0.25)
    assert progress.converged
    assert ours == pytest.approx(least, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", MARGINS)
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_one_against_the_rest_certifies_tight_tolerances_separable_or_not(loss: str, C: float) -> None:
    x, y = load_digits(return_X_y=True)
    _, progress, _ = run(x, y, SampledNewton(LinearProblem(loss, C=C), tol=1e-8, max_iter=300))
    assert progress.converged
    assert progress.gap <= 1e-8 * progress.objective


@pytest.mark.parametrize("loss", ["logistic", LONG_HINGE, "squared_hinge"])
@pytest.mark.parametrize("sparse", [False, True])
def test_sparse_and_dense_rows_give_one_model_for_many_outputs(loss: str, sparse: bool) -> None:
    x, y = load_wine(return_X_y=True)
    x = np.where(np.abs(x - x.mean(0)) > 0.5 * x.std(0), (x - x.mean(0)) / x.std(0), 0.0)
    shared, progress, _ = run(csr(x) if sparse else x, y, SampledNewton(LinearProblem(loss), tol=1e-9))
    total = 0.0
    for k in range(3):
        t = np.where(y == k, 1.0, -1.0)
        total += binary_objective(loss, x, t, 1.0, shared["coef"][:, k], shared["intercept"][k], 0)
    alone = sum(
        run(x, (y == k).astype(int), SampledNewton(LinearProblem(loss), tol=1e-9))[1].objective for k in range(3)
    )
    assert progress.converged
    assert total == pytest.approx(progress.objective, rel=1e-10)
    assert total == pytest.approx(alone, rel=1e-7)


@pytest.mark.parametrize("loss", MARGINS)
@pytest.mark.parametrize(
    "sparse, order",
    [(False, False), (True, True), *(pytest.param(s, not s, marks=pytest.mark.thorough) for s in (False, True))],
)
def test_sampled_start_reaches_the_optimum_also_on_sorted_labels(loss: str, sparse: bool, order: bool) -> None:
    x, y = rows(24_000, 8, order=order)
    exact = run(x.astype(np.float64), y, SampledNewton(LinearProblem(loss), tol=1e-7, sample=(2.0, 2.0)))[1]
    learner = SampledNewton(LinearProblem(loss), tol=1e-3)
    shared, progress, _ = run(csr(x) if sparse else x, y, learner)
    t = np.where(y == 1, 1.0, -1.0)
    ours = binary_objective(loss, x.astype(float), t, 1.0, shared["coef"][:, 0], shared["intercept"][0], 0)
    assert progress.converged
    assert len(shared["fractions"]) == 3
    assert ours - exact.objective <= progress.gap
    assert ours <= exact.objective * (1 + 1e-3)


@pytest.mark.parametrize("loss", MARGINS)
def test_gap_bounds_the_true_suboptimality_after_every_round(loss: str) -> None:
    x, y = rows(24_000, 8)
    least = run(x.astype(np.float64), y, SampledNewton(LinearProblem(loss), tol=1e-8, sample=(2.0, 2.0)))[1]
    _, _, events = run(x, y, SampledNewton(LinearProblem(loss), tol=1e-4))
    seen = [e for e in events if np.isfinite(getattr(e, "objective", np.nan))]
    assert seen
    for e in seen:
        assert e.objective - least.objective <= e.gap + least.gap


@pytest.mark.parametrize("loss", ["logistic", LONG_HINGE, "squared_hinge", "multinomial"])
def test_blocks_of_any_size_give_the_same_model(loss: str) -> None:
    x, y = rows(6000, 6, dtype="float64")
    found = []
    for block_rows in (None, 100):
        shards = {s: MemoryShard(s, d.x, d.y, block_rows=block_rows) for s, d in cut(x, y, n_shards=4).items()}
        found.append(run(x, y, SampledNewton(LinearProblem(loss), tol=1e-9), shards=shards)[0])
    assert np.abs(found[0]["coef"] - found[1]["coef"]).max() <= 1e-4 * np.abs(found[0]["coef"]).max()
    assert found[0]["status"][0] == pytest.approx(found[1]["status"][0], rel=1e-6)


@pytest.mark.parametrize("loss", [*MARGINS, "multinomial"])
def test_keeps_the_contract_of_a_learner(loss: str) -> None:
    x, y = rows(400, 5, dtype="float64")
    check_learner(SampledNewton(LinearProblem(loss)), schema_of(x, y), cut(x, y, n_shards=4))


@pytest.mark.parametrize("loss", MARGINS)
def test_propose_is_pure_in_every_phase(loss: str) -> None:
    x, y = rows(24_000, 8)
    learner, schema, shards = SampledNewton(LinearProblem(loss), tol=1e-5), schema_of(x, y), cut(x, y)
    worker, shared = LocalWorker(schema, shards), learner.init(schema, seed=0)
    private = {s: learner.adopt(schema, d) for s, d in shards.items()}
    for step in range(12):
        if learner.progress(shared).done:
            break
        orders = {s: Order(step, "gradient", 0, shard=s) for s in shards}
        found = [{s: learner.propose(shared, private[s], shards[s], orders[s]) for s in shards} for _ in range(2)]
        for s in shards:
            for name, array in found[0][s].update.arrays.items():
                assert array.tobytes() == found[1][s].update.arrays[name].tobytes(), name
        shared = learner.apply(shared, worker.merge({s: p.update for s, p in found[0].items()}), 1.0)
        private = {s: learner.commit(private[s], found[0][s], 1.0) for s in shards}


@pytest.mark.parametrize("loss", [*MARGINS, "multinomial"])
def test_empty_shards_change_nothing(loss: str) -> None:
    x, y = rows(300, 4, dtype="float64")
    shards = {0: MemoryShard(0, x[:0], y[:0]), 1: MemoryShard(1, x, y), 2: MemoryShard(2, x[:0], y[:0])}
    one = run(x, y, SampledNewton(LinearProblem(loss), tol=1e-8), shards={0: MemoryShard(0, x, y)})[0]
    more = run(x, y, SampledNewton(LinearProblem(loss), tol=1e-8), shards=shards)[0]
    assert np.array_equal(one["coef"], more["coef"])


@pytest.mark.thorough
@pytest.mark.parametrize("loss", [*MARGINS, "multinomial"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(loss: str, sparse: bool, value: float) -> None:
    x, y = rows(400, 5)
    x[77, 3] = value
    what = "contains NaN" if np.isnan(value) else "contains infinity"
    with pytest.raises(DataError, match=f"Input X {what}") as caught:
        run(
            csr(x) if sparse else x,
            y,
            SampledNewton(LinearProblem(loss)),
            shards=cut(csr(x) if sparse else x, y, n_shards=1),
        )
    assert (caught.value.row, caught.value.column) == (77, 3)


def test_constant_columns_and_rows_without_weight_do_no_harm() -> None:
    x, y = rows(500, 4, dtype="float64")
    wide = np.column_stack([x, np.zeros(500), np.full(500, 3.0)])
    weight = np.ones(500)
    weight[::2] = 0.0
    for loss in MARGINS:
        kept = run(x[1::2], y[1::2], SampledNewton(LinearProblem(loss), tol=1e-9))[1]
        ours = run(wide, y, SampledNewton(LinearProblem(loss), tol=1e-9), weight)[1]
        assert ours.converged
        assert ours.objective == pytest.approx(kept.objective, rel=1e-7)


def test_a_warm_start_at_the_optimum_needs_fewer_passes() -> None:
    x, y = rows(2000, 6, dtype="float64")
    learner = SampledNewton(LinearProblem(C=10.0), tol=1e-8)
    shared, cold, _ = run(x, y, learner)
    _, warm, _ = run(x, y, learner, start={"coef": shared["coef"], "intercept": shared["intercept"]})
    assert warm.converged
    assert warm.passes < cold.passes


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_a_warm_start_near_the_optimum_of_many_rows_stays_there(loss: Any) -> None:
    x, y = rows(20_000, 8, dtype="float64")
    shared, cold, _ = run(x, y, SampledNewton(LinearProblem(loss=loss, C=10.0)))
    start = {"coef": shared["coef"], "intercept": shared["intercept"]}
    _, near, _ = run(x, y, SampledNewton(LinearProblem(loss=loss, C=12.0)), start=start)
    assert near.converged
    assert near.passes < min(cold.passes, 2.6)


def test_a_warm_start_far_from_the_optimum_costs_little_more_than_none() -> None:
    x, y = rows(20_000, 8, dtype="float64")
    learner = SampledNewton(LinearProblem(C=10.0), tol=1e-4)
    _, cold, _ = run(x, y, learner)
    far = {"coef": np.full((8, 1), 5.0), "intercept": np.full(1, -3.0)}
    _, progress, _ = run(x, y, learner, start=far)
    assert progress.converged
    assert progress.passes < cold.passes + 1.5


@pytest.mark.parametrize("shift", [0.0, 300.0, 3000.0])
def test_columns_far_from_zero_cost_an_exact_hinge_few_more_passes(shift: float) -> None:
    """Hessians summed in float32 would lead nowhere there: they are summed in float64 as soon as a pivot says so."""
    r = np.random.default_rng(0)
    near = r.standard_normal((20_000, 30))
    y = near @ r.standard_normal(30) + 3 * r.standard_normal(20_000) > 0
    options = {"loss": "hinge", "C": 0.01, "tol": 1e-5, "max_iter": 100}
    models = [tutti.LinearSVC(**options).fit((near + shift).astype(t), y) for t in (np.float32, np.float64)]
    for model in models:
        assert model.duality_gap_ <= 1e-5 * model.objective_
    single, double = (model.history_[-1]["passes"] for model in models)
    assert single <= 1.5 * double


def test_max_iter_ends_the_run_without_a_claim() -> None:
    x, y = rows(500, 4, dtype="float64")
    _, progress, _ = run(x, y, SampledNewton(tol=1e-12, max_iter=2))
    assert progress.done
    assert not progress.converged


def test_sample_runs_stay_inside_the_shard_and_do_not_overlap() -> None:
    x, y = rows(5000, 2)
    (part,) = sample_rows(MemoryShard(3, x, y), 0.1, seed=1)
    assert part.starts is not None
    assert part.starts[-1] + part.size <= 5000
    assert (np.diff(part.starts) >= part.size).all()
    assert abs(part.n_rows - 500) <= part.size


def test_squared_loss_is_sent_to_gram() -> None:
    with pytest.raises(ParameterError, match="Gram"):
        SampledNewton(LinearProblem("squared"))
