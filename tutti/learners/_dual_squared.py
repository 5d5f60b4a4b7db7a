"""The dual bound of the squared loss at any dual point; a free intercept is met by shifting all variables alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tutti.learners._certificate import DOUBLE, Bounds, penalty
from tutti.learners._problem import LinearProblem
from tutti.types import Array


def squared_bounds(problem: LinearProblem, coef: Array, intercept: Array, sums: Mapping[str, Array]) -> Bounds:
    """Return primal value and dual bound from the sums of a pass.

        D(a) = -sum_i (a_i^2 / (2 C_i) - a_i y_i) - 1/2 |v|^2 - 1/2 s^2 (sum_i a_i)^2,     v = sum_i a_i x_i

    A free intercept asks for sum_i a_i = 0: a_i - t C_i with t = sum_i a_i / sum_i C_i meets it.

    Parameters
    ----------
    coef, intercept : (d, 1), (1,) the point at which ``loss`` was summed.
    sums : ``loss``, ``a``, ``phi`` (2, 1), ``v`` (1, d, 1) as for the other losses (all on side 1), and of a free
        intercept ``x`` (d, 1) = sum_i C_i x_i, ``c`` (2,) = sum_i C_i and sum_i C_i y_i.
    """
    loss, a, phi, v = sums["loss"].sum(axis=0), sums["a"].sum(axis=0), sums["phi"].sum(axis=0), sums["v"].sum(axis=0)
    if problem.intercept == "free" and sums["c"][0] > 0:
        shift = a / sums["c"][0]
        phi = phi - shift * a + 0.5 * shift**2 * sums["c"][0] + shift * sums["c"][1]
        v = v - sums["x"] * shift
    lower = -phi - 0.5 * np.einsum("jk,jk->k", v, v)
    if problem.intercept == "regularised":
        lower = lower - 0.5 * (problem.intercept_scaling * a) ** 2
    primal = penalty(problem, coef, intercept) + loss
    rounding = DOUBLE * (np.abs(primal) + np.abs(phi) + np.einsum("jk,jk->k", v, v))
    return Bounds(primal, lower, rounding, intercept)
