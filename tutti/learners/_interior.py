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
from tutti.learners._margins import Nowhere, Rows, add_hessian, frozen, margins_of, pieces, scatter, scatter_sides
from tutti.learners._problem import LinearProblem
from tutti.protocols import ShardData
from tutti.types import Array, Block, Csr

STEPS = 0.98 ** np.arange(400)
"""Step lengths that are tried, 1 down to 3e-4."""
_INSIDE = 0.995


@dataclass(frozen=True)
class RowState:
    """One piece of rows, (H, rows): signs, and C_i of a row, (rows,); margins, duals and slacks m, a, s, xi; what the
    last look left: the products of changes da ds and da dxi of a prediction, or the changes of m, a, s, xi."""

    sign: Array
    c: Array
    now: Array
    seen: Array | None = None


def settle(
    problem: LinearProblem,
    data: ShardData,
    rows: Iterable[Rows],
    states: Sequence[RowState] | None,
    point: tuple[Array, Array],
    step: Array,
    width: Array,
    middle: float = 0.0,
    wanted: Array | None = None,
    single: bool = False,
) -> tuple[dict[str, Array], list[RowState]]:
    """Go ``step`` (K,) along the last directions, or begin at ``point``, and sum what the next direction needs.

    Returns sums and new states.  ``loss``, ``a``, ``phi`` (2, K), ``v`` (S, d, K) certify; ``pull`` (d, K), ``pull_a``
    (K,) and ``hess`` (K, D, D) make the equations for mu = 0; ``products`` (K,) counts the pairs whose product is to
    become mu.  Of a tube, targets and the intercept of ``point`` are less ``middle``.  Outputs that are not ``wanted``
    (K,) get no Hessian.  ``single``: that of float32 rows is multiplied in float32, and added up in float64.
    """
    from tutti.learners._kernels.interior import go_on

    d, n_outputs = point[0].shape
    sides, tube = n_sides(problem), problem.loss == "epsilon_insensitive"
    size = d + (problem.intercept != "none")
    v, pulls = np.zeros((sides, d, n_outputs)), np.zeros((d, (1 + tube) * n_outputs + n_outputs))
    hess, totals, found = np.zeros((n_outputs, size, size)), np.zeros((n_outputs, 8)), []
    chosen = range(n_outputs) if wanted is None else np.flatnonzero(wanted)
    for i, (part, block) in enumerate((r, b) for r in rows for b in pieces(r, d, np.float64)):
        old = _begin(problem, block, point, width, middle) if states is None else states[i]
        if states is None:
            check_finite(float(old.now[0].sum()), block.x, block.start, data)
        there, curvature = np.empty_like(old.now), np.empty((n_outputs, len(block.y)))
        signed = np.empty((len(old.sign) + n_outputs, len(block.y)))
        go_on(
            *(old.now, old.seen, step, old.sign, old.c, _offset(problem, block, middle), _half(problem)),
            *(there, signed, curvature, totals),
        )
        found.append(RowState(old.sign, old.c, there))
        if sides == 2 and not tube:
            scatter_sides(block, signed[:n_outputs], v)
            signed[:n_outputs] = 0.0
        scatter(block.x, signed, pulls)
        x, curvature = _aiming(part, block, curvature) if single else (block.x, curvature)
        for k in chosen:
            add_hessian(x, curvature[k], problem.intercept != "none", hess[k])
    own, pull = pulls[:, :-n_outputs], np.ascontiguousarray(pulls[:, -n_outputs:])
    if tube:
        v += own.T[:, :, None] if sides == 2 else own.sum(axis=1)[None, :, None]
    elif sides == 1:
        v[0] = own
    by_sum = totals.T.copy()
    named = {"loss": by_sum[0:2], "a": by_sum[2:4], "phi": by_sum[4:6], "v": v}
    return named | {"pull": pull, "pull_a": by_sum[6], "hess": hess, "products": by_sum[7]}, found


def predict(
    problem: LinearProblem, rows: Iterable[Rows], states: Sequence[RowState], direction: tuple[Array, Array]
) -> tuple[dict[str, Array], list[RowState]]:
    """Look along the direction for mu = 0.

    Returns what `probe` does, and what the target and the products of changes add to the equations: ``pull_mu`` (d, K)
    and ``pull_mu_a`` (K,) for each unit of mu, ``pull_second`` and ``pull_second_a`` of the products.
    """
    from tutti.learners._kernels.interior import look

    d, n_outputs = direction[0].shape
    reach, found = _Reach(n_outputs), []
    pulls, sums = np.zeros((d, 2 * n_outputs)), np.zeros(2 * n_outputs)
    for i, block in enumerate(b for part in rows for b in pieces(part, d, np.float64)):
        old, z = states[i], margins_of(block.x, *direction)
        new, signed = np.empty((2, *old.sign.shape)), np.empty((2 * n_outputs, len(block.y)))
        own = z, old.sign, old.c, old.now, None, np.zeros(n_outputs), _half(problem)
        look(*own, new, signed, reach.taken, reach.product)
        scatter(block.x, signed, pulls)
        sums += signed.sum(axis=1)
        found.append(replace(old, seen=new))
    unit, second = np.ascontiguousarray(pulls[:, :n_outputs]), np.ascontiguousarray(pulls[:, n_outputs:])
    named = {"pull_mu": unit, "pull_second": second}
    named |= {"pull_mu_a": sums[:n_outputs], "pull_second_a": sums[n_outputs:]}
    return reach.named() | named, found


def probe(
    problem: LinearProblem, rows: Iterable[Rows], states: Sequence[RowState], direction: tuple[Array, Array], mu: Array
) -> tuple[dict[str, Array], list[RowState]]:
    """Find the directions of all rows for a direction of the weights and the target ``mu`` (K,).

    Returns ``stopped`` (K, len(STEPS)): 1 for steps with which a row leaves the positive orthant; ``product`` (3, K):
    the coefficients of the sum of a s + (C - a) xi as a function of the step.
    """
    from tutti.learners._kernels.interior import look

    d, n_outputs = direction[0].shape
    reach, found, none = _Reach(n_outputs), [], np.empty((0, 0))
    for i, block in enumerate(b for part in rows for b in pieces(part, d, np.float64)):
        old, z = states[i], margins_of(block.x, *direction)
        moves = np.empty_like(old.now)
        look(z, old.sign, old.c, old.now, old.seen, mu, _half(problem), moves, none, reach.taken, reach.product)
        found.append(replace(old, seen=moves))
    return reach.named(), found


def _aiming(part: Rows, block: Block, curvature: Array) -> tuple[Array | Csr, Array]:
    """Return rows and curvatures for a Hessian in the type of the rows, where they are dense."""
    if isinstance(part.block.x, Csr) or part.block.x.dtype != np.float32:
        return block.x, curvature
    lo = block.start - part.block.start
    return frozen(part.block.x[lo : lo + len(block.y)]), curvature.astype(np.float32)


def warm_up(problem: LinearProblem, rows: Rows, n_outputs: int, single: bool) -> None:
    """Compile or load every kernel that an interior step needs, on a few rows of one feature."""
    point, ones = (np.zeros((1, n_outputs)), np.zeros(n_outputs)), np.ones(n_outputs)
    _, states = settle(problem, Nowhere(), [rows], None, point, ones, ones, single=single)
    _, states = predict(problem, [rows], states, point)
    _, states = probe(problem, [rows], states, point, ones)
    settle(problem, Nowhere(), [rows], states, point, ones, ones)


class _Reach:
    """How far rows may go, and what their products become on the way."""

    def __init__(self, n_outputs: int) -> None:
        self.taken, self.product = np.zeros(n_outputs), np.zeros((3, n_outputs))

    def named(self) -> dict[str, Array]:
        return {"stopped": (STEPS * self.taken[:, None] > _INSIDE).astype(np.float64), "product": self.product}


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
        sign = np.repeat(np.array([[-1], [1]], np.int8), len(block.y), axis=1)
        m = sign * (margins_of(block.x, *point) - (block.y - middle)) + (1.0 + problem.epsilon)
    else:
        sign = np.ascontiguousarray(problem.signs(block.y, n_outputs, "int8").T)
        m = sign * margins_of(block.x, *point)
    c = problem.row_weights(block)
    h, u = width[:, None], 1.0 - m
    s = np.maximum(-u, 0.0) + 0.5 * h
    if problem.loss == "squared_hinge":
        a, xi = 2.0 * c * (np.maximum(u, 0.0) + 0.05 * h), np.zeros_like(m)
    else:
        a, xi = c * np.clip(0.5 + 0.5 * u / h, 0.05, 0.95), np.maximum(u, 0.0) + 0.5 * h
    return RowState(sign, c, np.stack([m, a, s, xi]))


def _half(problem: LinearProblem) -> float:
    """Return what the kernels tell a squared hinge by."""
    return 0.5 if problem.loss == "squared_hinge" else 0.0


def _offset(problem: LinearProblem, block: Any, middle: float) -> Array | None:
    """Return C_i l*(-a_i / C_i) of a tube for each unit of a_i, (H, rows).

    It holds the target less ``middle``: a free intercept makes sum_i s_i a_i = 0, so any constant will do.
    """
    if problem.loss != "epsilon_insensitive":
        return None
    rest = block.y - middle
    return np.stack([problem.epsilon + rest, problem.epsilon - rest])
