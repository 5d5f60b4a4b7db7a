"""Certificates against optima found by slow, independent means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from tutti.learners._certificate import bounds, dual, n_sides, reached
from tutti.learners._problem import LinearProblem

N, D = 24, 3
LOSSES = ["logistic", "hinge", "squared_hinge", "multinomial", "squared"]
INTERCEPTS = ["free", "regularised", "none"]


def data(loss: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, D)) + 0.5
    y = x @ rng.standard_normal(D) + rng.standard_normal(N) if loss == "squared" else rng.integers(0, 3, N)
    if loss not in ("squared", "multinomial"):
        y = (y > 0).astype(int)
    c = rng.random(N) * 2.0
    c[:2] = 0.0
    return x, y, c


def naive_sums(loss: str, x: np.ndarray, y: np.ndarray, c: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """The sums a pass would bring, row by row in the plainest way."""
    u = x @ w + b
    if loss == "multinomial":
        p = np.exp(u - u.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        e = np.eye(w.shape[1])[y]
        g = c[:, None] * (e - p)
        value = c @ -np.log(p[np.arange(N), y])
        constants = {"class_x": x.T @ (c[:, None] * e), "class_c": c @ e}
        return {"loss": np.array([value]), "a": g.sum(0), "v": x.T @ g} | constants
    if loss == "squared":
        r = (y - u[:, 0]) * c
        value = 0.5 * c @ (y - u[:, 0]) ** 2
        constants = {"x": (x.T @ c)[:, None], "c": np.array([c.sum()])}
        return {"loss": np.array([value]), "a": np.array([r.sum()]), "v": (x.T @ r)[:, None]} | constants
    sign = np.where(y == 1, 1.0, -1.0)
    m = sign * u[:, 0]
    if loss == "logistic":
        value, a, curve = np.logaddexp(0, -m), 1 / (1 + np.exp(m)), np.exp(-m)
    elif loss == "hinge":
        value, a, curve = np.maximum(1 - m, 0), np.clip(0.5 + (1 - m) / 0.6, 0, 1), 0 * m
    else:
        value, a, curve = np.maximum(1 - m, 0) ** 2, 2 * np.maximum(1 - m, 0), 0 * m
    sides = [sign < 0, sign > 0]
    two = {k: np.array([[(c * v)[s].sum()] for s in sides]) for k, v in (("loss", value), ("a", a), ("curve", curve))}
    v = np.array([(x[s].T @ (c * a * sign)[s])[:, None] for s in sides])
    return two | {"v": v}


def objective(
    problem: LinearProblem, x: np.ndarray, y: np.ndarray, c: np.ndarray, w: np.ndarray, b: np.ndarray
) -> float:
    value = float(naive_sums(problem.loss, x, y, c, w, b)["loss"].sum()) + 0.5 * float((w**2).sum())
    if problem.intercept == "regularised":
        value += 0.5 * float(((b / problem.intercept_scaling) ** 2).sum())
    return value


def optimum(problem: LinearProblem, x: np.ndarray, y: np.ndarray, c: np.ndarray, k: int) -> tuple[Any, Any, float]:
    """The minimum by a quasi-Newton method, or for the hinge by its quadratic program."""
    columns = x if problem.intercept == "none" else np.column_stack([x, np.full(N, problem.intercept_scaling)])
    if problem.loss == "hinge":
        return hinge_optimum(problem, columns, y, c)

    def split(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = z.reshape(-1, k)
        return z[:D], z[D] if len(z) > D else np.zeros(k)

    best = minimize(
        lambda z: objective(problem, x, y, c, *split(z)),
        np.zeros(columns.shape[1] * k),
        method="BFGS",
        options={"gtol": 1e-10, "maxiter": 5000},
    )
    return (*split(best.x), float(best.fun))


def hinge_optimum(problem: LinearProblem, columns: np.ndarray, y: np.ndarray, c: np.ndarray) -> tuple[Any, Any, float]:
    """Primal quadratic program in (w, b, xi)."""
    sign, d = np.where(y == 1, 1.0, -1.0), columns.shape[1]
    ridge = np.ones(d)
    if problem.intercept == "free":
        ridge[-1] = 0.0
    best = minimize(
        lambda z: 0.5 * ridge @ z[:d] ** 2 + c @ z[d:],
        np.concatenate([np.zeros(d), np.ones(N)]),
        jac=lambda z: np.concatenate([ridge * z[:d], c]),
        constraints={
            "type": "ineq",
            "fun": lambda z: sign * (columns @ z[:d]) + z[d:] - 1,
            "jac": lambda z: np.column_stack([sign[:, None] * columns, np.eye(N)]),
        },
        bounds=[(None, None)] * d + [(0, None)] * N,
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    w = best.x[:D, None]
    b = np.array([best.x[D] * problem.intercept_scaling]) if d > D else np.zeros(1)
    return w, b, objective(problem, columns[:, :D], y, c, w, b)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_gap_is_never_below_the_true_suboptimality(loss: str, intercept: str) -> None:
    problem = LinearProblem(loss, intercept=intercept, intercept_scaling=1.0 if intercept == "free" else 0.7)
    k = 3 if loss == "multinomial" else 1
    x, y, c = data(loss)
    least = optimum(problem, x, y, c, k)[2]
    rng = np.random.default_rng(1)
    for size in (0.0, 0.01, 0.1, 1.0, 10.0):
        for _ in range(20):
            w = size * rng.standard_normal((D, k))
            b = size * rng.standard_normal(k) if intercept != "none" else np.zeros(k)
            sums = naive_sums(loss, x, y, c, w, b)
            if loss in ("logistic", "hinge", "squared_hinge") and n_sides(problem) == 1:
                sums["v"] = sums["v"].sum(axis=0, keepdims=True)
            found = bounds(problem, w, b, sums)
            value = objective(problem, x, y, c, w, found.intercept)
            assert found.primal.sum() == pytest.approx(value, rel=1e-12)
            assert value - least <= found.gap.sum() + 1e-7 * abs(least)
            assert found.dual.sum() <= least * (1 + 1e-7)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "hinge"])
@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_gap_vanishes_at_the_optimum(loss: str, intercept: str) -> None:
    problem = LinearProblem(loss, intercept=intercept)
    x, y, c = data(loss, seed=2)
    w, b, least = optimum(problem, x, y, c, 3 if loss == "multinomial" else 1)
    sums = naive_sums(loss, x, y, c, w, b)
    if loss not in ("multinomial", "squared") and intercept != "free":
        sums["v"] = sums["v"].sum(axis=0, keepdims=True)
    assert bounds(problem, w, b, sums).gap.sum() <= 1e-4 * least


def test_error_of_a_free_intercept_costs_the_logistic_bound_only_its_square() -> None:
    problem = LinearProblem("logistic")
    x, y, c = data("logistic", seed=2)
    w, b, _ = optimum(problem, x, y, c, 1)
    gaps = [bounds(problem, w, b + off, naive_sums("logistic", x, y, c, w, b + off)).gap[0] for off in (1e-2, 1e-3)]
    assert gaps[1] <= gaps[0] / 30


@pytest.mark.parametrize("loss", ["logistic", "hinge", "squared_hinge"])
def test_any_dual_point_gives_a_bound(loss: str) -> None:
    problem = LinearProblem(loss)
    x, y, c = data(loss, seed=3)
    least = optimum(problem, x, y, c, 1)[2]
    sign, rng = np.where(y == 1, 1.0, -1.0), np.random.default_rng(0)
    for _ in range(50):
        alpha = c * rng.random(N)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = alpha / c
            phi = {
                "logistic": np.nan_to_num(alpha * np.log(share) + (c - alpha) * np.log1p(-share)),
                "hinge": -alpha,
                "squared_hinge": np.nan_to_num(alpha**2 / (4 * c)) - alpha,
            }[loss]
        sides = [sign < 0, sign > 0]
        v = np.array([(x[s].T @ (alpha * sign)[s])[:, None] for s in sides])
        a, phi = (np.array([[z[s].sum()] for s in sides]) for z in (alpha, phi))
        assert dual(problem, v, a, phi)[0] <= least * (1 + 1e-7)


def test_a_class_without_weight_still_has_a_bound() -> None:
    problem = LinearProblem("logistic")
    x, y, c = data("logistic")
    c = np.where(y == 1, 0.0, c)
    found = bounds(
        problem, np.zeros((D, 1)), np.zeros(1), naive_sums("logistic", x, y, c, np.zeros((D, 1)), np.zeros(1))
    )
    assert 0.0 <= found.dual[0] <= found.primal[0]


def test_reached_is_relative() -> None:
    assert reached(1e-3, 10.0, 1e-3)
    assert not reached(1e-3, 0.1, 1e-3)
    assert reached(0.0, 0.0, 1e-3)
