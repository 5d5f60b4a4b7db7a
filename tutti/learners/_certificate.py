"""How far from the optimum?  Lower bounds from sums that any pass over the rows collects, with honest rounding.

A dual point alpha >= 0 gives the bound  D = -Phi - 1/2 |v|^2 - 1/2 s^2 (sum_i y_i alpha_i)^2 <= min P  (s: scale of a
regularised intercept, 0 for none).  A free intercept asks for sum_i y_i alpha_i = 0: the side of the rows (y = -1 or
y = +1) that has too much is scaled down, which is why sums are kept for the two sides apart.
Words: phi = sum_i C_i l*(-alpha_i / C_i), v = sum_i alpha_i y_i x_i, a = sum_i alpha_i; side 0 holds the rows with
y = -1, side 1 those with y = +1; S = 2 sides of v where the intercept is free, else 1 (their sum).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tutti.learners._problem import LinearProblem
from tutti.types import Array

SINGLE, DOUBLE = 1e-6, 2e-13
"""Relative rounding of sums collected in float32 and float64 arithmetic.  A term of a sum carries a few unit roundoffs
(6e-8, 1.1e-16) and a float32 partial sum of 64 terms at most 64 of them, mostly cancelling; partial sums are added in
float64 over up to 1e4 blocks.  Both are at least 16 times what is seen on data of 1e6 rows."""


class Bounds(NamedTuple):
    """What one pass proves, per output: ``dual - rounding <= optimum`` and ``P(coef, intercept) <= primal + rounding``.

    ``intercept`` is the one that ``primal`` belongs to (squared loss: the best one for ``coef``, which costs nothing).
    """

    primal: Array
    dual: Array
    rounding: Array
    intercept: Array

    @property
    def gap(self) -> Array:
        """Return primal - dual + rounding of every output, never negative."""
        gap: Array = np.maximum(self.primal - self.dual, 0.0) + 2.0 * self.rounding
        return gap


def n_sides(problem: LinearProblem) -> int:
    """Return S: how many sides of v a pass has to keep apart."""
    return 1 if problem.intercept != "free" or problem.loss in ("multinomial", "squared") else 2


def reached(gap: float, objective: float, tol: float) -> bool:
    """Tell whether a certified gap is small enough: gap <= tol |objective|."""
    return bool(gap <= tol * max(abs(objective), np.finfo(np.float64).tiny))


def penalty(problem: LinearProblem, coef: Array, intercept: Array) -> Array:
    """Return 1/2 |W_k|^2 + R(b_k) of every output, (K,); without the first term where C = inf."""
    value: Array = 0.5 * np.einsum("jk,jk->k", coef, coef) if np.isfinite(problem.C) else np.zeros(coef.shape[1])
    if problem.intercept == "regularised":
        value = value + 0.5 * (intercept / problem.intercept_scaling) ** 2
    return value


def bounds(
    problem: LinearProblem, coef: Array, intercept: Array, sums: Mapping[str, Array], precision: float = DOUBLE
) -> Bounds:
    """Return primal value and dual bound of every output from the merged sums of one pass.

    Parameters
    ----------
    coef, intercept : (d, K), (K,) the point whose primal value is wanted, at which ``loss`` was summed.
    sums : logistic, hinge, squared_hinge: ``loss`` (2, K) true loss, ``a`` (2, K), ``v`` (S, d, K), and of alphas that
        are not -C_i l'(m_i) at this point (a dual solver's) ``phi`` (2, K); logistic: ``curve`` (2, K), see `dual`.
        multinomial: ``loss`` (1,), ``a`` (K,) = sum_i C_i (e_y - p_i), ``v`` (d, K) = sum_i C_i x_i (e_y - p_i)',
        ``class_x`` (d, K) = sum_i C_i x_i e_y', ``class_c`` (K,) = sum_i C_i e_y.
        squared: ``loss`` (1,), ``a`` (1,) = sum_i C_i r_i, ``v`` (d, 1) = sum_i C_i r_i x_i with r = y - u,
        ``x`` (d, 1) = sum_i C_i x_i, ``c`` (1,) = sum_i C_i.
    precision : `SINGLE` or `DOUBLE`, by the arithmetic of the pass.
    """
    if problem.loss == "multinomial":
        return _multinomial(problem, coef, intercept, sums, precision)
    if problem.loss == "squared":
        return _squared(problem, coef, intercept, sums, precision)
    loss, v, a = sums["loss"], sums["v"], sums["a"]
    if "phi" in sums:
        phi, slope = sums["phi"], sums.get("slope")
    else:
        phi, slope = conjugates(problem, coef, intercept, loss, v, a)
    primal = penalty(problem, coef, intercept) + loss.sum(axis=0)
    lower = dual(problem, v, a, phi, slope, sums.get("curve"))
    sizes = np.abs(v).sum(axis=0)
    rounding = precision * (
        np.abs(primal)
        + np.abs(phi).sum(axis=0)
        + ((np.abs(coef) + np.abs(v.sum(axis=0))) * sizes).sum(axis=0)
        + np.abs(intercept) * a.sum(axis=0)
    )
    return Bounds(primal, lower, rounding, intercept)


def conjugates(
    problem: LinearProblem, coef: Array, intercept: Array, loss: Array, v: Array, a: Array
) -> tuple[Array, Array]:
    """Return phi and slope = sum_i alpha_i phi_i'(alpha_i), both (2, K), of alpha_i = -C_i l'(m_i), without a pass.

    Fenchel's equality: C_i l*(-alpha_i / C_i) = -alpha_i m_i - C_i l(m_i), and phi_i'(alpha_i) = -m_i.  The hinge's
    phi is -alpha_i for every alpha.  With one side of v only the sum of the two rows of the result has a meaning.
    """
    if problem.loss == "hinge":
        return -a, -a
    signed = np.array([-1.0, 1.0])[:, None] * a * intercept
    dots = np.einsum("sjk,jk->sk", v, coef)
    margins = dots + signed if len(v) == 2 else np.vstack([signed[:1], signed[1:] + dots])
    return -margins - loss, -margins


def dual(
    problem: LinearProblem, v: Array, a: Array, phi: Array, slope: Array | None = None, curve: Array | None = None
) -> Array:
    """Return the best dual bound along the rays that keep the dual point feasible, per output (K,).

    Parameters
    ----------
    v, a, phi : (S, d, K), (2, K), (2, K) sums over the rows of each side.
    slope, curve : (2, K) logistic only: sum_i alpha_i phi_i'(alpha_i) and sum_i alpha_i C_i / (C_i - alpha_i).  They
        make the loss of scaling a side by 1 - rho quadratic in rho:
        Phi((1 - rho) alpha) <= Phi - rho slope + rho^2 curve / (2 (1 - rho)),
        where convexity alone gives (1 - rho) Phi (phi(0) = 0).
    """
    if problem.intercept == "free":
        most = np.maximum(a[0], a[1])
        keep = np.minimum(a[0], a[1]) / np.where(most > 0, most, 1.0)
        factor = np.where(a == most, keep, 1.0)
        factor[:, a[0] == a[1]] = 1.0
        total = np.einsum("sjk,sk->jk", v, factor)
    else:
        factor = np.ones_like(a)
        total = v.sum(axis=0)
    square = np.einsum("jk,jk->k", total, total)
    if problem.intercept == "regularised":
        square = square + (problem.intercept_scaling * (a[1] - a[0])) ** 2
    if problem.loss == "squared_hinge":
        linear, quadratic = (factor * a).sum(axis=0), np.maximum((factor**2 * (phi + a)).sum(axis=0), 0.0)
        bottom = 2.0 * quadratic + square
        best: Array = 0.5 * linear**2 / np.where(bottom > 0, bottom, 1.0)
        return best
    scaled = factor * phi
    if slope is not None and curve is not None and problem.loss == "logistic":
        rho = 1.0 - factor
        with np.errstate(invalid="ignore", divide="ignore"):
            tangent = phi - rho * slope + np.where(rho > 0, 0.5 * rho**2 / factor * curve, 0.0)
        scaled = np.fmin(scaled, tangent)
    conjugate = scaled.sum(axis=0)
    theta = np.where(-conjugate < square, np.maximum(-conjugate, 0.0) / np.where(square > 0, square, 1.0), 1.0)
    lower: Array = -theta * conjugate - 0.5 * theta**2 * square
    return lower


def _multinomial(
    problem: LinearProblem, coef: Array, intercept: Array, sums: Mapping[str, Array], precision: float
) -> Bounds:
    """Dual points are distributions q_i over the classes; D = sum_i C_i H(q_i) - 1/2 |sum_i C_i x_i (e_y - q_i)'|^2.

    A free intercept asks for sum_i C_i q_i = class_c: mix q = (1 - rho) p + rho pi with one constant pi for all rows;
    the entropy H is concave, so the mixture of the entropies bounds it from below.
    """
    loss, v, a, class_x, class_c = (sums[k] for k in ("loss", "v", "a", "class_x", "class_c"))
    primal = np.atleast_1d(penalty(problem, coef, intercept).sum() + loss.sum())
    entropy = loss.sum() + (v * coef).sum() + a @ intercept
    total = class_c.sum()
    if problem.intercept == "free" and total > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.where(a < 0, -a / class_c, 0.0).max()
        rho = 1.0 if np.isinf(excess) else excess / (1.0 + excess)
        if rho > 0:
            pi = np.maximum(class_c + (1.0 - rho) / rho * a, 0.0) / total
            v = (1.0 - rho) * v + rho * (class_x - np.outer(class_x.sum(axis=1), pi))
            entropy = (1.0 - rho) * entropy - rho * total * np.sum(pi * np.log(np.where(pi > 0, pi, 1.0)))
    lower = entropy - 0.5 * (v * v).sum()
    if problem.intercept == "regularised":
        lower -= 0.5 * problem.intercept_scaling**2 * (a @ a)
    # sum_i C_i |e_y - p_i|_1 <= 2 loss, spread over the features as the mean row is
    mean = np.abs(class_x).sum(axis=1) / max(total, np.finfo(np.float64).tiny)
    sizes = np.minimum(2.0 * loss.sum(), total) * mean[:, None] + np.abs(v)
    rounding = precision * (
        np.abs(primal) + np.abs(entropy) + ((np.abs(coef) + np.abs(v)) * sizes).sum() + np.abs(intercept) @ np.abs(a)
    )
    return Bounds(primal, np.atleast_1d(lower), rounding, intercept)


def _squared(
    problem: LinearProblem, coef: Array, intercept: Array, sums: Mapping[str, Array], precision: float
) -> Bounds:
    """At the intercept that is best for ``coef`` the residuals are a feasible dual point and P - D = 1/2 |w - v|^2."""
    if not np.isfinite(problem.C):
        raise ValueError("without a penalty (C=inf) the gap follows from the normal equations alone: use Gram")
    loss, v, a = sums["loss"], sums["v"], sums["a"]
    rounding = np.abs(loss) + ((np.abs(coef) + np.abs(v)) * np.abs(v)).sum(axis=0) + np.abs(intercept * a)
    if problem.intercept == "free" and sums["c"][0] > 0:
        shift = a / sums["c"]
        intercept = intercept + shift
        loss = loss - 0.5 * shift * a
        v = v - sums["x"] * shift
        rounding = rounding + ((np.abs(coef) + np.abs(v)) * np.abs(sums["x"] * shift)).sum(axis=0)
    primal = penalty(problem, coef, intercept) + loss
    apart = 0.5 * ((coef - v) ** 2).sum(axis=0)
    if problem.intercept == "regularised":
        scale = problem.intercept_scaling
        apart = apart + 0.5 * (intercept / scale - scale * a) ** 2
    return Bounds(primal, primal - apart, precision * (rounding + np.abs(primal)), intercept)
