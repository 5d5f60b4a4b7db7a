"""Least squares from one pass: X'CX and X'Cy are summed over shards, the normal equations are solved exactly.

Rows are shifted by the mean of a few of them before they are multiplied, so that columns like 1e6 +- 1 keep their
digits; float32 data is multiplied in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.learners._certificate import DOUBLE
from tutti.learners._finite import check_finite
from tutti.learners._problem import LinearProblem, progress_of, status
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Block, Cost, Csr, Kind, Order, Progress, Proposal, Schema, Update

MOMENTS = ("gram", "total", "weight", "shift")
"""Shared arrays that hold all that the solution needs of the rows, whatever C is."""

_CHUNK = 4096  # rows converted and multiplied at a time: they stay in the second cache for some hundred features


@dataclass(frozen=True)
class Gram(Spec):
    """Minimise the squared loss by its normal equations: one pass, then a Cholesky factorisation of d x d.

    (X'CX + I) w = X'Cy with centred X and y where the intercept is free; without regularisation (C = inf) a singular
    matrix gets the solution of least norm.  For d up to about 5,000: X'X takes 8 d^2 bytes per shard.

    Parameters
    ----------
    problem : what is minimised; its loss is "squared".
    tol : kept for the planner's grammar; the solve is exact up to rounding, which ``gap`` accounts for.
    keep : True leaves the sums in the shared state; a start that holds them needs no pass over the same rows.
    """

    problem: LinearProblem = field(default_factory=lambda: LinearProblem("squared"))
    tol: float = 1e-4
    keep: bool = False

    def __post_init__(self) -> None:
        if self.problem.loss != "squared":
            raise ParameterError("problem.loss", self.problem.loss, "Gram solves 'squared' only")

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernel of sparse rows."""
        if schema.sparse:
            from tutti.learners._kernels.gram import csr_gram

            no = np.zeros(0)
            values, indices = np.zeros(0, schema.dtype), np.zeros(0, np.int32)
            csr_gram(np.zeros(1, np.int64), indices, values, no, no, np.zeros((1, 1)), np.zeros(1))

    def cost(self, schema: Schema) -> Cost:
        size = schema.n_features + 1
        return Cost(
            update_bytes=8 * size * (size + 1),
            rounds=1 + self._shifts(schema.sparse),
            flops_per_value=float(schema.n_features),
        )

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        d = schema.n_features
        shared = {
            "coef": np.zeros((d, 1)),
            "intercept": np.zeros(1),
            "shift": np.zeros(d + 1),
            "shifted": np.array([not self._shifts(schema.sparse)]),
            "status": status(),
        }
        if start is not None and start.keys() >= set(MOMENTS):
            scale = self._scale()
            sums = {name: start[name] * scale for name in ("gram", "total", "weight")}
            return self.solved({**shared, "shift": start["shift"]}, sums, passes=0.0)
        return shared

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Sum a few rows (first round) or all moments (second round)."""
        if not shared["shifted"][0]:
            return Proposal(Update("gradient", self._few(len(shared["shift"]), data)))
        size = len(shared["shift"])
        gram, total, weight = np.zeros((size, size)), np.zeros(size), 0.0
        for i in range(len(data.bounds)):
            block = data.block(i)
            c = self.problem.row_weights(block)
            weight += float(c.sum())
            if isinstance(block.x, Csr):
                _add_csr(block, c, gram, total)
            else:
                _add_dense(block.x, block.y, c, shared["shift"], gram, total)
            check_finite(float(total.sum()), block.x, block.start, data)
        return Proposal(Update("gradient", {"gram": gram, "total": total, "weight": np.array([weight])}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Take the shift, then solve."""
        sums = merged.arrays
        if "gram" not in sums:
            few = sums["few"] / max(sums["n"][0], 1.0)
            return {**shared, "shift": few, "shifted": np.array([True])}
        return self.solved(shared, sums, passes=1.0)

    def solved(self, shared: Arrays, sums: Arrays, passes: float) -> Arrays:
        """Return the state with the solution of the normal equations of ``sums``, moments weighted by C_i."""
        gram = sums["gram"] + np.triu(sums["gram"], 1).T
        coef, intercept, objective, gap = _solve(self.problem, gram, sums["total"], sums["weight"][0], shared["shift"])
        done = status(objective, gap, passes=passes, done=True, converged=math.isfinite(objective))
        kept = {name: sums[name] / self._scale() for name in ("gram", "total", "weight")} if self.keep else {}
        return {**shared, **kept, "coef": coef[:, None], "intercept": np.array([intercept]), "status": done}

    def _scale(self) -> float:
        """Return C, by which all sums are multiplied: sums without it do for every C."""
        return self.problem.C if math.isfinite(self.problem.C) else 1.0

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        return progress_of(shared)

    def _shifts(self, sparse: bool) -> bool:
        return self.problem.intercept != "none" and not sparse

    def _few(self, size: int, data: ShardData) -> dict[str, Array]:
        few, n = np.zeros(size), 0
        if data.n_rows:
            block = data.block(0)
            assert not isinstance(block.x, Csr)
            x = np.asarray(block.x[:_CHUNK], np.float64)
            check_finite(float(x.sum()), x, block.start, data)
            few[:-1], few[-1], n = x.sum(axis=0), block.y[:_CHUNK].sum(), len(x)
        return {"few": few, "n": np.array([float(n)])}


def _add_csr(block: Block, c: Array, gram: Array, total: Array) -> None:
    from tutti.learners._kernels.gram import csr_gram

    assert isinstance(block.x, Csr)
    csr_gram(block.x.indptr, block.x.indices, block.x.values, block.y.astype(np.float64, copy=False), c, gram, total)


def _add_dense(x: Array, y: Array, c: Array, shift: Array, gram: Array, total: Array) -> None:
    for lo in range(0, len(y), _CHUNK):
        rows = slice(lo, min(lo + _CHUNK, len(y)))
        z = np.empty((rows.stop - lo, len(shift)))
        z[:, :-1] = x[rows]
        z[:, -1] = y[rows]
        z -= shift
        total += c[rows] @ z
        z *= np.sqrt(c[rows])[:, None]
        gram += np.triu(z.T @ z)


def _solve(
    problem: LinearProblem, gram: Array, total: Array, weight: float, shift: Array
) -> tuple[Array, float, float, float]:
    """Return coef (d,), intercept, objective and certified gap from the moments of shifted rows (x, y).

    In shifted coordinates the unknown offset is b' = b + w.shift_x - shift_y; a free one is eliminated by centring, a
    regularised one joins the unknowns with R(b) = 1/2 ((b' - w.shift_x + shift_y) / s)^2.
    """
    penalty = 1.0 if math.isfinite(problem.C) else 0.0
    if problem.intercept == "free" and weight > 0:
        gram = gram - np.outer(total, total) / weight
    a, r = gram[:-1, :-1].copy(), gram[:-1, -1].copy()
    constant, spread = 0.5 * max(gram[-1, -1], 0.0), 0.5 * abs(gram[-1, -1])
    a[np.diag_indices_from(a)] += penalty
    if problem.intercept == "regularised":
        q = np.append(-shift[:-1], 1.0) / problem.intercept_scaling
        t = shift[-1] / problem.intercept_scaling
        a = np.block([[a, total[:-1, None]], [total[None, :-1], np.array([[weight]])]]) + np.outer(q, q)
        r = np.append(r, total[-1]) - q * t
        constant, spread = constant + 0.5 * t * t, spread + 0.5 * t * t
    u = _solve_symmetric(a, r)
    left = a @ u - r
    gap = 0.5 * float(left @ _solve_symmetric(a, left))
    objective = constant + float(0.5 * u @ (a @ u) - r @ u)
    spread += float(0.5 * np.abs(u) @ (np.abs(a) @ np.abs(u)) + np.abs(r) @ np.abs(u))
    coef = u[: len(shift) - 1]
    if problem.intercept == "free":
        offset = (total[-1] - total[:-1] @ coef) / weight if weight > 0 else 0.0
    else:
        offset = float(u[-1]) if problem.intercept == "regularised" else 0.0
    intercept = 0.0 if problem.intercept == "none" else float(offset + shift[-1] - coef @ shift[:-1])
    return coef, intercept, max(objective, 0.0), max(gap, 0.0) + DOUBLE * spread


def _solve_symmetric(a: Array, r: Array) -> Array:
    """Solve a u = r for a positive semi-definite matrix; the solution of least norm where it is singular."""
    if not (np.isfinite(a).all() and np.isfinite(r).all()):
        return np.full(len(r), np.nan)
    diagonal = np.sqrt(np.maximum(np.diag(a), 0.0))
    limit = 1e3 * len(r) * np.finfo(np.float64).eps
    if diagonal.all():
        scaled = a / np.outer(diagonal, diagonal)  # equilibrated: columns of very different size cost no digits
        try:
            low = np.linalg.cholesky(scaled)
        except np.linalg.LinAlgError:
            low = None
        if low is not None and np.diag(low).min() ** 2 > limit:
            solved: Array = np.linalg.solve(low.T, np.linalg.solve(low, r / diagonal)) / diagonal
            return solved
    values, vectors = np.linalg.eigh(a)
    kept = values > limit * max(values[-1], 0.0)
    found: Array = vectors[:, kept] @ ((vectors[:, kept].T @ r) / values[kept])
    return found
