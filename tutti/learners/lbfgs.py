"""L-BFGS whose every round is one evaluation: one all-reduce of a few numbers per weight, no matrix at any size.

The unknowns are the weights and the prediction at the mean row (not at zero), scaled by the initial Hessian's diagonal:
columns of very different mean and size then cost few iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.learners._certificate import Bounds, bounds, reached
from tutti.learners._groups import Groups
from tutti.learners._margins import Request, all_rows, arithmetic, collect, precision_of, warm_up
from tutti.learners._problem import LinearProblem, progress_of, status
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Block, Cost, Csr, Kind, Order, Progress, Proposal, Schema, Update

_CHUNK = 4096
_ARMIJO, _WOLFE = 1e-4, 0.9
_MOST_TRIALS = 25


@dataclass(frozen=True)
class LBFGS(Spec):
    """Limited-memory BFGS for logistic, multinomial, squared hinge and squared losses, dense or sparse.

    For very many features, or many machines and weak regularisation.  Slow where the certificate has to become tight
    on badly conditioned data (hundreds of passes at large C): the gap falls with the squared gradient.

    Parameters
    ----------
    problem : what is minimised.  The squared loss without a penalty (C = inf) has no certificate but objective >= 0.
    tol : stop when the certified gap is at most tol times the objective.
    max_iter : most passes over the data.
    memory : pairs of steps and gradient changes that are remembered.

    Source: Liu, Nocedal (1989), "On the limited memory BFGS method for large scale optimization"; the line search is
    the bisection for weak Wolfe conditions of Lewis, Overton (2013).
    """

    problem: LinearProblem = field(default_factory=LinearProblem)
    tol: float = 1e-4
    max_iter: int = 1000
    memory: int = 10

    def __post_init__(self) -> None:
        if self.problem.loss in ("hinge", "epsilon_insensitive"):
            raise ParameterError("problem.loss", self.problem.loss, "L-BFGS needs a smooth loss; use solver='newton'")

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels for this kind of data."""
        warm_up(self.problem, schema, arithmetic(self.problem, schema, self.tol))

    def cost(self, schema: Schema) -> Cost:
        n_outputs = self.problem.n_outputs(schema)
        size = 8 * (schema.n_features + 1) * n_outputs
        return Cost(update_bytes=2 * size, passes=30.0, rounds=30, flops_per_value=4.0 * n_outputs)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        groups = Groups(self.problem, schema.n_features, self.problem.n_outputs(schema))
        shape = groups.n_features, groups.n_outputs
        coef = np.zeros(shape) if start is None else np.array(start["coef"], np.float64)
        intercept = np.zeros(shape[1]) if start is None else np.array(start["intercept"], np.float64)
        size = groups.n_groups * groups.size
        return {
            "coef": coef,
            "intercept": intercept,
            "best": np.array([math.inf, -math.inf, 0.0]),
            "base": coef,
            "base_intercept": intercept,
            "trial": coef,
            "trial_intercept": intercept,
            "value": np.array([math.inf]),
            "grad": np.zeros(size),
            "direction": np.zeros(size),
            "steps": np.zeros((0, size)),
            "changes": np.zeros((0, size)),
            "mean": np.zeros(shape[0]),
            "diagonal": np.ones(size),
            "bracket": np.array([0.0, 1.0, math.inf]),
            "count": np.zeros(3),  # low, step, high; passes, trials, restarts
            "wide": np.array([arithmetic(self.problem, schema, self.tol) == np.float64]),
            "status": status(),
        }

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Sum losses and gradients at the trial point; in the first round also the moments of the columns."""
        real = np.float64 if shared["wide"][0] else np.float32
        first = shared["count"][0] == 0
        request = Request(constants=self.problem.loss in ("multinomial", "squared"))
        point = shared["trial"], shared["trial_intercept"]
        sums = collect(self.problem, data, all_rows(data), point, real, request)
        if first:
            sums["moments"] = _moments(self.problem, data, len(shared["mean"]))
        return Proposal(Update("gradient", sums))

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        return progress_of(shared)

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Judge the trial point, then shorten or lengthen the step, or turn to a new direction."""
        state, sums = dict(shared), merged.arrays
        groups = Groups(self.problem, *state["base"].shape)
        state["count"] = state["count"] + (1, 1, 0)
        if "moments" in sums:
            state["mean"], state["diagonal"] = _scaling(groups, sums["moments"])
        found = self._bounds(state, sums)
        self._certify(state, found)
        if state["status"][3]:
            return state
        value, grad = groups.value(state["trial"], state["trial_intercept"], sums)
        self._search(state, float(value.sum()), self._inner(state, groups, grad), float(found.rounding.sum()), groups)
        trial = groups.unpack(self._outer(state, groups, state["bracket"][1] * state["direction"]))
        state["trial"] = state["base"] + trial[0]
        state["trial_intercept"] = state["base_intercept"] + trial[1]
        return state

    def _bounds(self, state: Arrays, sums: Arrays) -> Bounds:
        point = state["trial"], state["trial_intercept"]
        precision = precision_of(np.float64 if state["wide"][0] else np.float32)
        if math.isfinite(self.problem.C):
            return bounds(self.problem, *point, sums, precision)
        loss = np.atleast_1d(sums["loss"].sum())
        return Bounds(loss, np.zeros(1), precision * loss, point[1])

    def _certify(self, state: dict[str, Array], found: Bounds) -> None:
        """Keep the best primal point and the best dual bound; the reported model is the best point."""
        primal, rounding = float(found.primal.sum()), float(found.rounding.sum())
        best, dual, seen = state["best"].tolist()
        if primal + rounding < best:
            best, seen = primal + rounding, rounding
            state["coef"], state["intercept"] = state["trial"], found.intercept
        dual = max(dual, float((found.dual - found.rounding).sum()))
        state["best"] = np.array([best, dual, seen])
        gap = max(best - dual, 0.0)
        stop = reached(gap, best, self.tol)
        if not stop and not state["wide"][0] and 4 * seen > self.tol * abs(best):
            state["wide"] = np.array([True])  # the rounding of float32 alone is in the way
        passes = float(state["count"][0])
        state["status"] = status(best - seen, gap, passes, stop or passes >= self.max_iter, stop)

    def _search(self, state: dict[str, Array], value: float, grad: Array, rounding: float, groups: Groups) -> None:
        """One step of the bisection: refuse (shorten), ask for more (lengthen), or accept and turn."""
        low, step, high = state["bracket"].tolist()
        before, slope = float(state["value"][0]), float(state["grad"] @ state["direction"])
        fresh = not math.isfinite(before)
        if not math.isfinite(value) or value > before + _ARMIJO * step * slope + rounding:
            high = step
        elif not fresh and float(grad @ state["direction"]) < _WOLFE * slope and state["count"][1] < _MOST_TRIALS:
            low = step
        else:
            self._accept(state, value, grad, fresh)
            return
        if state["count"][1] >= _MOST_TRIALS:
            self._restart(state)
            return
        state["bracket"] = np.array([low, 0.5 * (low + high) if math.isfinite(high) else 2.0 * low, high])

    def _accept(self, state: dict[str, Array], value: float, grad: Array, fresh: bool) -> None:
        if not fresh:
            step, change = state["bracket"][1] * state["direction"], grad - state["grad"]
            if step @ change > 1e-14 * (change @ change):
                keep = max(self.memory - 1, 0)
                state["steps"] = np.vstack([state["steps"][-keep:] if keep else state["steps"][:0], step])
                state["changes"] = np.vstack([state["changes"][-keep:] if keep else state["changes"][:0], change])
        state["base"], state["base_intercept"] = state["trial"], state["trial_intercept"]
        state["value"], state["grad"] = np.array([value]), grad
        state["direction"] = -_two_loops(state["steps"], state["changes"], grad)
        state["bracket"] = np.array([0.0, 1.0, math.inf])
        state["count"] = state["count"] * (1, 0, 0)

    def _restart(self, state: dict[str, Array]) -> None:
        """No step helps: go on in float64 and along the plain gradient; give up when that was tried already."""
        state["count"] = state["count"] * (1, 0, 1) + (0, 0, 1)
        if state["count"][2] > 2:
            state["status"] = state["status"].copy()
            state["status"][3] = 1.0
        state["wide"] = np.array([True])
        state["steps"], state["changes"] = state["steps"][:0], state["changes"][:0]
        state["direction"] = -state["grad"]
        state["bracket"] = np.array([0.0, 1.0, math.inf])

    def _inner(self, state: Arrays, groups: Groups, grad: Array) -> Array:
        """Gradient in the inner unknowns: w and b + w.mean, each times the root of the Hessian's diagonal."""
        if groups.has_intercept:
            rows = grad.reshape(groups.n_outputs, -1).copy()
            rows[:, :-1] -= rows[:, -1:] * state["mean"]
            grad = rows
        inner: Array = grad.ravel() / state["diagonal"]
        return inner

    def _outer(self, state: Arrays, groups: Groups, inner: Array) -> Array:
        """A step in the inner unknowns as one in (w, b)."""
        rows = (inner / state["diagonal"]).reshape(groups.n_outputs, -1)
        if groups.has_intercept:
            rows[:, -1] -= rows[:, :-1] @ state["mean"]
        return rows


def _two_loops(steps: Array, changes: Array, grad: Array) -> Array:
    """Return the inverse Hessian's approximation times the gradient (two-loop recursion)."""
    q = grad.copy()
    rho = [1.0 / float(s @ y) for s, y in zip(steps, changes, strict=True)]
    alpha = [0.0] * len(rho)
    for i in reversed(range(len(rho))):
        alpha[i] = rho[i] * float(steps[i] @ q)
        q -= alpha[i] * changes[i]
    if rho:
        q *= 1.0 / (rho[-1] * float(changes[-1] @ changes[-1]))
    for i in range(len(rho)):
        q += (alpha[i] - rho[i] * float(changes[i] @ q)) * steps[i]
    return q


def _moments(problem: LinearProblem, data: ShardData, n_features: int) -> Array:
    """Return (2, d + 1): sums of C_i x_i and C_i x_i^2, each followed by the sum of C_i."""
    total = np.zeros((2, n_features + 1))
    for i in range(len(data.bounds)):
        block = data.block(i)
        c = problem.row_weights(block)
        total[:, -1] += c.sum()
        if isinstance(block.x, Csr):
            _csr_moments(block, c, total)
            continue
        for lo in range(0, len(c), _CHUNK):
            x = block.x[lo : lo + _CHUNK].astype(np.float64)
            total[0, :-1] += c[lo : lo + _CHUNK] @ x
            total[1, :-1] += c[lo : lo + _CHUNK] @ np.square(x, out=x)
    return total


def _csr_moments(block: Block, c: Array, total: Array) -> None:
    assert isinstance(block.x, Csr)
    p, d = block.x.indptr, block.x.n_features
    for lo in range(0, len(c), _CHUNK):
        hi = min(lo + _CHUNK, len(c))
        part = slice(int(p[lo]), int(p[hi]))
        values = block.x.values[part].astype(np.float64)
        weights = np.repeat(c[lo:hi], np.diff(p[lo : hi + 1]))
        at = block.x.indices[part]
        total[0, :-1] += np.bincount(at, weights * values, d)
        total[1, :-1] += np.bincount(at, weights * values * values, d)


def _scaling(groups: Groups, moments: Array) -> tuple[Array, Array]:
    """Return the mean row (d,) and the root of the Hessian's diagonal at W = 0 in the inner unknowns, flat."""
    weight = max(float(moments[0, -1]), 1e-300)
    mean = moments[0, :-1] / weight if groups.has_intercept else np.zeros(groups.n_features)
    spread = np.maximum(moments[1, :-1] - mean**2 * weight, 0.0)
    share = 1.0 / groups.n_outputs
    bend = {"logistic": 0.25, "multinomial": share * (1.0 - share), "squared_hinge": 2.0}.get(groups.problem.loss, 1.0)
    diagonal = bend * spread + float(np.isfinite(groups.problem.C))
    if groups.has_intercept:
        diagonal = np.append(diagonal, bend * weight)
    diagonal = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return mean, np.tile(diagonal, groups.n_outputs)
