"""Hinge losses by an interior-point method: per row a dual variable and its slacks, all strictly positive.

    m + xi - s = 1,   a s = mu,   w = sum_i a_i y_i x_i,   mu -> 0;   hinge (C - a) xi = mu, squared hinge xi = a / 2C

Newton's step on these equations needs one weighted Gram matrix of all rows, as every other Newton step here, and no
line search; its iterations (10-20) hardly depend on C or on how many rows sit on the margin.  Row states stay with the
shard.  A step is three rounds: `predict` looks how far the direction for mu = 0 leads, which tells how much mu may fall
and, to second order, what the products of changes add to the equations; `probe` finds how far every row may go along
the direction corrected so, `settle` goes there and sums the next equations.

The epsilon-insensitive loss is two hinges a row that share the one output: m = s (u - y) + 1 + epsilon, s = -1, +1.
Arrays of a row's hinges are (H, rows): H = K outputs with a hinge each, or one output with two.

Source: Ferris, Munson (2002), "Interior-point methods for massive support vector machines"; Mehrotra (1992), "On the
implementation of a primal-dual interior point method".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tutti.learners._certificate import n_sides
from tutti.learners._finite import check_finite
from tutti.learners._margins import Rows, add_hessian, margins_of, pieces, scatter, scatter_sides
from tutti.learners._problem import LinearProblem
from tutti.protocols import ShardData
from tutti.types import Array

STEPS = 0.98 ** np.arange(400)
"""Step lengths that are tried, 1 down to 3e-4."""
_INSIDE = 0.995


@dataclass(frozen=True)
class RowState:
    """One piece of rows: signs and weights, margins, duals, slacks, the products of changes that the last prediction
    saw (da ds and da dxi), and the directions of the last probe; (H, rows)."""

    sign: Array
    c: Array
    m: Array
    a: Array
    s: Array
    xi: Array
    da_ds: Array
    da_dxi: Array
    dm: Array
    da: Array
    ds: Array
    dxi: Array


def settle(
    problem: LinearProblem,
    data: ShardData,
    rows: Iterable[Rows],
    states: Sequence[RowState] | None,
    point: tuple[Array, Array],
    step: Array,
    width: Array,
    middle: float = 0.0,
) -> tuple[dict[str, Array], list[RowState]]:
    """Go ``step`` (K,) along the last directions, or begin at ``point``, and sum what the next direction needs.

    Returns sums and new states.  ``loss``, ``a``, ``phi`` (2, K), ``v`` (S, d, K) certify; ``pull`` (d, K), ``pull_a``
    (K,) and ``hess`` (K, D, D) make the equations for mu = 0; ``products`` (K,) counts the pairs whose product is to
    become mu.  Of a tube, targets and the intercept of ``point`` are less ``middle``.
    """
    d, n_outputs = point[0].shape
    power = 2 if problem.loss == "squared_hinge" else 1
    sides = n_sides(problem)
    size = d + (problem.intercept != "none")
    v, pull = np.zeros((sides, d, n_outputs)), np.zeros((d, n_outputs))
    hess, totals, found = np.zeros((n_outputs, size, size)), np.zeros((8, n_outputs)), []
    for i, block in enumerate(b for part in rows for b in pieces(part, d, np.float64)):
        if states is None:
            state = _begin(problem, block, point, width, middle)
            check_finite(float(state.m.sum()), block.x, block.start, data)
        else:
            state = _moved(states[i], step[:, None])
        found.append(state)
        curvature, extra, _, _ = _newton(problem, state)
        positive, live = state.sign > 0, state.c > 0
        loss = state.c * np.maximum(1.0 - state.m, 0.0) ** power
        phi = _conjugate(problem, block, state, middle)
        _scatter(problem, block, state.a * state.sign, v)
        scatter(block.x, _joined(extra * state.sign, n_outputs), pull)
        joint = _joined(curvature, n_outputs)
        for k in range(n_outputs):
            add_hessian(block.x, joint[k], problem.intercept != "none", hess[k])
        sums = [
            np.where(positive, 0.0, loss),
            np.where(positive, loss, 0.0),
            np.where(positive, 0.0, state.a),
            np.where(positive, state.a, 0.0),
            extra * state.sign,
            (1.0 if power == 2 else 2.0) * live,
            np.where(positive, 0.0, phi),
            np.where(positive, phi, 0.0),
        ]
        totals += [_joined(each, n_outputs).sum(axis=1) for each in sums]
    named = {"loss": totals[0:2], "a": totals[2:4], "phi": totals[6:8], "v": v}
    return named | {"pull": pull, "pull_a": totals[4], "hess": hess, "products": totals[5]}, found


def predict(
    problem: LinearProblem, rows: Iterable[Rows], states: Sequence[RowState], direction: tuple[Array, Array]
) -> tuple[dict[str, Array], list[RowState]]:
    """Look along the direction for mu = 0.

    Returns what `probe` does, and what the target and the products of changes add to the equations: ``pull_mu`` (d, K)
    and ``pull_mu_a`` (K,) for each unit of mu, ``pull_second`` and ``pull_second_a`` of the products.
    """
    d, n_outputs = direction[0].shape
    far, found = _Reach(n_outputs), []
    pulls, sums = np.zeros((2, d, n_outputs)), np.zeros((2, n_outputs))
    for i, block in enumerate(b for part in rows for b in pieces(part, d, np.float64)):
        old = states[i]
        da, ds, dxi = far.go(problem, old, old.sign * margins_of(block.x, *direction), 0.0)
        new = replace(old, da_ds=da * ds, da_dxi=da * dxi)
        _, _, unit, second = _newton(problem, new)
        for k, extra in enumerate((unit, second)):
            signed = _joined(extra * old.sign, n_outputs)
            scatter(block.x, signed, pulls[k])
            sums[k] += signed.sum(axis=1)
        found.append(new)
    named = {"pull_mu": pulls[0], "pull_mu_a": sums[0], "pull_second": pulls[1], "pull_second_a": sums[1]}
    return far.named() | named, found


def probe(
    problem: LinearProblem, rows: Iterable[Rows], states: Sequence[RowState], direction: tuple[Array, Array], mu: Array
) -> tuple[dict[str, Array], list[RowState]]:
    """Find the directions of all rows for a direction of the weights and the target ``mu`` (K,).

    Returns ``stopped`` (K, len(STEPS)): rows that leave the positive orthant by each step; ``product`` (3, K): the
    coefficients of the sum of a s + (C - a) xi as a function of the step.
    """
    d, n_outputs = direction[0].shape
    far, found = _Reach(n_outputs), []
    for i, block in enumerate(b for part in rows for b in pieces(part, d, np.float64)):
        dm = states[i].sign * margins_of(block.x, *direction)  # (K, rows), the same for both hinges of a tube
        da, ds, dxi = far.go(problem, states[i], dm, mu[:, None])
        found.append(replace(states[i], dm=dm, da=da, ds=ds, dxi=dxi))
    return far.named(), found


class _Reach:
    """How far rows may go, and what their products become on the way."""

    def __init__(self, n_outputs: int) -> None:
        self._stopped, self._product = np.zeros((n_outputs, len(STEPS))), np.zeros((3, n_outputs))

    def named(self) -> dict[str, Array]:
        return {"stopped": self._stopped, "product": self._product}

    def go(self, problem: LinearProblem, old: RowState, dm: Array, mu: Any) -> tuple[Array, Array, Array]:
        """Return the changes (da, ds, dxi) of a piece of rows for the change dm of their margins, and count them in."""
        n_outputs = len(self._stopped)
        curvature, extra, unit, second = _newton(problem, old)
        da = extra + mu * unit + second - curvature * dm
        live, rest = old.c > 0, old.c - old.a
        with np.errstate(divide="ignore", invalid="ignore"):
            ds = np.where(live, (mu - old.da_ds - old.s * da) / old.a - old.s, 0.0)
            dxi = np.zeros_like(ds)
            pairs = [(old.a, da), (old.s, ds)]
            if problem.loss != "squared_hinge":
                dxi = np.where(live, (mu + old.da_dxi + old.xi * da) / rest - old.xi, 0.0)
                pairs += [(rest, -da), (old.xi, dxi)]
            far = np.full(da.shape, np.inf)
            for value, change in pairs:
                far = np.minimum(far, np.where(live & (change < 0), _INSIDE * value / -change, np.inf))
        reach = far.reshape(n_outputs, -1)
        for k in range(n_outputs):
            # STEPS descend: a row stops all steps before the first one that it allows
            first = np.searchsorted(-STEPS, -reach[k], side="left")
            self._stopped[k] += np.bincount(first, minlength=len(STEPS) + 1)[::-1].cumsum()[::-1][1:]
        sums = [
            np.where(live, old.a * old.s + rest * old.xi, 0.0),
            da * (old.s - old.xi) + old.a * ds + rest * dxi,
            da * (ds - dxi),
        ]
        self._product += [_joined(each, n_outputs).sum(axis=1) for each in sums]
        return da, ds, dxi


def longest(stopped: Array) -> Array:
    """Return the longest step (K,) that no row forbids; the shortest one there is if all are forbidden."""
    allowed = stopped == 0
    allowed[:, -1] = True
    steps: Array = STEPS[np.argmax(allowed, axis=1)]
    return steps


def next_mu(step: Array, product: Array, products: Array) -> Array:
    """Return the target (K,): the mean product now, times the cube of what the longest predicted step leaves of it."""
    now = np.maximum(product[0], np.finfo(np.float64).tiny)
    left = np.clip((now + step * product[1] + step**2 * product[2]) / now, 0.0, 1.0)
    target: Array = left**3 * now / np.maximum(products, 1.0)
    return target


def _begin(problem: LinearProblem, block: Any, point: tuple[Array, Array], width: Array, middle: float) -> RowState:
    n_outputs = point[0].shape[1]
    if problem.loss == "epsilon_insensitive":
        sign = np.broadcast_to(np.array([[-1.0], [1.0]]), (2, len(block.y)))
        m = sign * (margins_of(block.x, *point) - (block.y - middle)) + (1.0 + problem.epsilon)
    else:
        sign = np.ascontiguousarray(problem.signs(block.y, n_outputs).T)
        m = sign * margins_of(block.x, *point)
    c = np.broadcast_to(problem.row_weights(block), sign.shape)
    h, u = width[:, None], 1.0 - m
    s = np.maximum(-u, 0.0) + 0.5 * h
    if problem.loss == "squared_hinge":
        a, xi = 2.0 * c * (np.maximum(u, 0.0) + 0.05 * h), np.zeros_like(m)
    else:
        a, xi = c * np.clip(0.5 + 0.5 * u / h, 0.05, 0.95), np.maximum(u, 0.0) + 0.5 * h
    nothing = np.zeros_like(m)
    return RowState(sign, c, m, a, s, xi, nothing, nothing, nothing, nothing, nothing, nothing)


def _joined(hinges: Array, n_outputs: int) -> Array:
    """Return (K, rows) sums of (H, rows) over the hinges of an output."""
    return hinges if len(hinges) == n_outputs else hinges.sum(axis=0, keepdims=True)


def _conjugate(problem: LinearProblem, block: Any, state: RowState, middle: float) -> Array:
    """Return C_i l*(-a_i / C_i), (H, rows).

    Of a tube it holds the target less ``middle``: a free intercept makes sum_i s_i a_i = 0, so any constant will do.
    """
    if problem.loss == "epsilon_insensitive":
        tube: Array = state.a * (problem.epsilon - state.sign * (block.y - middle))
        return tube
    if problem.loss == "hinge":
        return -state.a
    live = state.c > 0
    squared: Array = np.where(live, state.a**2 / np.where(live, 4.0 * state.c, 1.0), 0.0) - state.a
    return squared


def _scatter(problem: LinearProblem, block: Any, signed: Array, v: Array) -> None:
    """Add X' (a s) to v (S, d, K)."""
    if problem.loss != "epsilon_insensitive":
        scatter_sides(block, signed, v)
        return
    both = np.zeros((v.shape[1], 2))
    scatter(block.x, signed, both)
    v += both.T[:, :, None] if len(v) == 2 else both.sum(axis=1)[None, :, None]


def _moved(old: RowState, t: Array) -> RowState:
    m, a, s, xi = old.m + t * old.dm, old.a + t * old.da, old.s + t * old.ds, old.xi + t * old.dxi
    nothing = np.zeros_like(m)
    return replace(old, m=m, a=a, s=s, xi=xi, da_ds=nothing, da_dxi=nothing)


def _newton(problem: LinearProblem, state: RowState) -> tuple[Array, Array, Array, Array]:
    """Return 1 / theta and e, e_mu, e_second of da = e + mu e_mu + e_second - dm / theta, zero where C = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        theta, gap = state.s / state.a, 1.0 - state.m
        unit, second = 1.0 / state.a, -state.da_ds / state.a
        if problem.loss == "squared_hinge":
            theta, gap = theta + 0.5 / state.c, gap - 0.5 * state.a / state.c
        else:
            rest = state.c - state.a
            theta, unit, second = theta + state.xi / rest, unit - 1.0 / rest, second - state.da_dxi / rest
        parts = np.ones_like(theta), gap, unit, second
        live = state.c > 0
        found = [np.where(live, part / theta, 0.0) for part in parts]
    return found[0], found[1], found[2], found[3]
