"""Models that differ in the strength C: shared passes, and certificates as honest as those of single fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import tutti
from tutti.learners._kernels.links import CHUNK, FAST, _exp_neg_abs, _log1p
from tutti.learners.newton import SampledNewton

R = np.random.default_rng(0)
X = R.standard_normal((6000, 8)) * np.array([1, 1, 1, 30, 0.01, 1, 1, 1])
Y = (X @ R.standard_normal(8) + 2 * R.standard_normal(6000) > 1).astype(int)
Y3 = (X @ R.standard_normal((8, 3)) + R.standard_normal((6000, 3))).argmax(axis=1)
STRENGTHS = [10.0, 1e-5, 1e-2, 1.0, 0.1]
WEIGHT = R.random(6000) * 3


def solved(estimator: Any, strengths: list[float], x: Any, y: Any, weight: Any = None) -> Any:
    dataset = tutti.from_arrays(x, y, sample_weight=weight)
    job = estimator._job(dataset)
    assert isinstance(job.choice.learner, SampledNewton)
    return job.choice.learner.solve_path(strengths, dataset.open(0, 1, job.schema), job.schema, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "estimator, x, y, weight",
    [
        (tutti.LogisticRegression(), X, Y, None),
        (tutti.LogisticRegression(fit_intercept=False), X, Y, None),
        (tutti.LogisticRegression(class_weight="balanced"), X, Y, WEIGHT),
        (tutti.LogisticRegression(), X[:150], Y[:150], None),
        (tutti.LogisticRegression(), sp.csr_matrix(X * (np.abs(X) > 0.5)), Y, None),
        (tutti.LinearSVC(), X, Y, None),
        (tutti.LinearSVC(), X, Y3, WEIGHT),
    ],
    ids=["plain", "no intercept", "weights", "few rows", "sparse", "squared hinge", "three classes"],
)
def test_what_is_certified_is_as_near_to_the_minimum_as_that_says(estimator: Any, x: Any, y: Any, weight: Any) -> None:
    found = solved(estimator, STRENGTHS, x, y, weight)
    assert found.certified.sum() >= 3
    for i, c in enumerate(STRENGTHS):
        exact = type(estimator)(**{**estimator.get_params(), "C": c, "tol": 1e-9}).fit(x, y, sample_weight=weight)
        above = found.primal[i] - exact.objective_
        assert above >= -2 * exact.duality_gap_ - 1e-9 * exact.objective_, "the objective is that of a single fit"
        assert above <= found.gap[i] * (1 + 1e-9)
        if found.certified[i]:
            assert found.gap[i] <= 1e-4 * found.primal[i]


def test_float32_rows_are_certified_with_the_rounding_of_their_sums() -> None:
    single = X.astype(np.float32)
    found = solved(tutti.LogisticRegression(), [0.01, 0.1, 1.0], single, Y)
    assert found.certified.all()
    for i, c in enumerate((0.01, 0.1, 1.0)):
        exact = tutti.LogisticRegression(C=c, tol=1e-9).fit(single.astype(np.float64), Y)
        assert abs(found.primal[i] - exact.objective_) <= 1e-4 * exact.objective_


@pytest.mark.parametrize("estimator", [tutti.LogisticRegression(fit_intercept=False), tutti.LinearSVC()], ids=str)
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_the_minimum_lies_where_sums_in_float32_say_that_it_does(estimator: Any, shift: float) -> None:
    r = np.random.default_rng(2)
    x = r.standard_normal((20_000, 10))
    y = (x @ r.standard_normal(10) + 2 * r.standard_normal(20_000) > 0).astype(int)
    x = (x + shift).astype(np.float32)
    strengths = [1e-3, 1e-2, 0.1, 1.0]
    found = solved(estimator, strengths, x, y)
    for i, c in enumerate(strengths):
        exact = type(estimator)(**{**estimator.get_params(), "C": c, "tol": 1e-9}).fit(x.astype(np.float64), y)
        least, most = exact.objective_ * (1 - 2e-9), exact.objective_ * (1 + 2e-9)
        assert found.primal[i] - found.gap[i] <= most
        assert found.primal[i] + found.gap[i] >= least


def test_neighbours_of_solved_models_cost_few_passes() -> None:
    r = np.random.default_rng(1)
    x = r.standard_normal((40_000, 10))
    y = (x @ r.standard_normal(10) + 2 * r.standard_normal(40_000) > 0).astype(int)
    found = solved(tutti.LogisticRegression(), np.logspace(-2, 2, 10).tolist(), x, y)
    assert found.certified.all()
    assert np.median(found.passes) <= 2


def test_each_model_has_a_history_that_ends_with_its_certificate() -> None:
    found = solved(tutti.LinearSVC(), STRENGTHS, X, Y3)
    for i, history in enumerate(found.histories):
        assert [r.step for r in history] == list(range(1, len(history) + 1))
        assert (history[-1].objective, history[-1].gap) == (found.primal[i], found.gap[i])
        assert np.isnan(history[0].objective), "the sample does not know the objective"
        gaps, seconds, passes = ([getattr(r, name) for r in history] for name in ("gap", "seconds", "passes"))
        assert np.isinf(gaps[0])
        assert (np.diff(seconds) > 0).all()
        assert seconds[-1] <= found.seconds
        assert (np.diff(passes) > 0).all()
        assert int(passes[-1]) >= found.passes[i]
        assert len(history) <= found.n_rounds


def test_equal_strengths_and_what_cannot_share() -> None:
    found = solved(tutti.LogisticRegression(), [1.0, 1.0, 1.0], X, Y)
    assert found.certified.all()
    np.testing.assert_allclose(found.primal, found.primal[0], rtol=1e-4)
    assert solved(tutti.LogisticRegression(), STRENGTHS, X, Y3) is None, "the softmax has one joint Hessian"
    assert solved(tutti.LinearSVC(loss="hinge"), STRENGTHS, X, Y) is None


def test_separable_rows_are_left_to_fits_of_their_own() -> None:
    y = (X[:, 0] > 0).astype(int)
    found = solved(tutti.LogisticRegression(), [1e-3, 1.0, 1e6], X, y)
    assert np.isfinite(found.coef).all()
    search = tutti.GridSearchCV(tutti.LogisticRegression(), {"C": [1e-3, 1.0, 1e6]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.99


@pytest.mark.thorough
def test_exponentials_and_logarithms_of_links_are_good_to_a_few_roundings() -> None:
    from numba import njit

    @njit(fastmath=FAST)
    def both(z: Any, e: Any, logarithm: Any) -> None:
        _exp_neg_abs(z, e, len(z))
        for i in range(len(z)):
            logarithm[i] = _log1p(e[i])

    for scale in (0.0, 1e-9, 0.3, 1.0, 5.0, 30.0, 150.0):
        z = scale * np.linspace(-4, 4, CHUNK)
        e, logarithm = np.empty(CHUNK), np.empty(CHUNK)
        both(z, e, logarithm)
        np.testing.assert_allclose(e, np.exp(-np.abs(z)), rtol=(4 + 4 * scale) * 2.3e-16)
        np.testing.assert_allclose(logarithm, np.log1p(e), rtol=1e-15)
