"""The unknowns of a linear model as groups that step on their own: one per output, or all outputs of a multinomial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tutti.learners._certificate import penalty
from tutti.learners._problem import LinearProblem
from tutti.types import Array, Arrays

_LEAST_PIVOT = 1e-4
"""Sums in float32 leave some 1e-6 of a matrix whose diagonal is 1: below this a direction is off by a per cent."""


@dataclass(frozen=True)
class Groups:
    """Packing of coef (d, K) and intercept (K,) into (G, D) rows, weights before the intercept of each output."""

    problem: LinearProblem
    n_features: int
    n_outputs: int

    @property
    def joint(self) -> bool:
        return self.problem.loss == "multinomial"

    @property
    def has_intercept(self) -> bool:
        return self.problem.intercept != "none"

    @property
    def n_groups(self) -> int:
        return 1 if self.joint else self.n_outputs

    @property
    def size(self) -> int:
        """Unknowns of a group, D."""
        return (self.n_features + self.has_intercept) * (self.n_outputs if self.joint else 1)

    def pack(self, coef: Array, intercept: Array) -> Array:
        """Return the (G, D) array of unknowns."""
        rows = np.column_stack([coef.T, intercept]) if self.has_intercept else coef.T
        return rows.reshape(self.n_groups, -1)

    def unpack(self, packed: Array) -> tuple[Array, Array]:
        """Return coef (d, K) and intercept (K,); the inverse of `pack`."""
        rows = packed.reshape(self.n_outputs, -1)
        return rows[:, : self.n_features].T, rows[:, -1] if self.has_intercept else np.zeros(self.n_outputs)

    def ridge(self) -> Array:
        """Return the penalty's second derivative in every unknown, (D,)."""
        ridge = np.full(self.n_features + self.has_intercept, float(np.isfinite(self.problem.C)))
        if self.has_intercept:
            ridge[-1] = self.problem.intercept_scaling**-2 if self.problem.intercept == "regularised" else 0.0
        return np.tile(ridge, self.n_outputs) if self.joint else ridge

    def by_output(self, flags: Array) -> Array:
        """Turn one flag per group into one per output."""
        return np.full(self.n_outputs, flags[0]) if self.joint else flags

    def value(self, coef: Array, intercept: Array, sums: Arrays, share: float = 1.0) -> tuple[Array, Array]:
        """Return the (smoothed) objective (G,) and its gradient (G, D); the penalty counts ``share`` times.

        ``share`` is the part of the rows that ``sums`` are about, so that a sample has the optimum of the whole.
        """
        cost = share * penalty(self.problem, coef, intercept)
        if self.problem.loss in ("multinomial", "squared"):
            pull = self.pack(sums["v"], sums["a"])
            value = np.atleast_1d(cost.sum() + sums["loss"].sum())
        else:
            pull = self.pack(sums["v"].sum(axis=0), sums["a"][1] - sums["a"][0])
            value = cost + sums["smooth"].sum(axis=0)
        return value, share * self.ridge() * self.pack(coef, intercept) - pull

    def aim(self, hess: Array, share: float, gradient: Array, which: Array, single: bool) -> Array:
        """Return Newton directions -(hess + share * ridge)^-1 gradient of the groups ``which``, zero elsewhere."""
        directions = np.zeros_like(gradient)
        for g in np.flatnonzero(which):
            matrix = hess[g] + np.diag(share * self.ridge())
            if self.joint and self.problem.intercept == "free":
                # all intercepts may move together without any effect: pin that direction
                at = np.arange(self.n_features, len(matrix), self.n_features + 1)
                matrix[np.ix_(at, at)] += np.trace(matrix[np.ix_(at, at)]) / len(at) ** 2
            directions[g] = newton_direction(matrix, gradient[g], single)
        return directions

    def coarse(self, hess: Array, which: Array) -> bool:
        """Tell whether Hessians summed in float32 would mislead: a scaled one has a pivot near what they are off."""
        for g in np.flatnonzero(which):
            matrix = hess[g] + np.diag(self.ridge())
            scale = 1.0 / np.sqrt(np.where(np.diag(matrix) > 0, np.diag(matrix), 1.0))
            try:
                factor = np.linalg.cholesky(matrix * scale[:, None] * scale)
            except np.linalg.LinAlgError:
                return True
            if np.diag(factor).min() ** 2 < _LEAST_PIVOT:
                return True
        return False


def newton_direction(hess: Array, gradient: Array, single: bool = False) -> Array:
    """Return -hess^-1 gradient after scaling the diagonal to 1, with the smallest ridge that gives a descent direction.

    ``single`` tells that hess was summed in float32: then eigenvalues below 1e-6 of the scaled matrix mean nothing.
    """
    diagonal = np.diag(hess)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = hess * scale[:, None] * scale
    right = scale * gradient
    if not right.any():
        return np.zeros_like(gradient)
    for ridge in (1e-6, 1e-4, 1e-2, 1.0) if single else (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1.0):
        try:
            np.linalg.cholesky(scaled + ridge * np.eye(len(scaled)))
            found: Array = -scale * np.linalg.solve(scaled + ridge * np.eye(len(scaled)), right)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(found).all() and found @ gradient < 0:
            return found
    return -gradient * scale**2
