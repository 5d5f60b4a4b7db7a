"""The binary problems inside a kernel machine, and how each is solved: one after the other, or as a cascade.

A problem with many rows is cut into leaves; each finds the support vectors of its rows, pairs of sets merge up a tree,
and what the root finds is held against all rows: those that violate the optimality join its set, until none does.

Source: Graf, Cosatto, Bottou, Dourdanovic, Vapnik (2004), "Parallel support vector machines: the cascade SVM".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tutti.learners._kernel_rows import Kernel, Points, points
from tutti.learners._pieces import Pieces
from tutti.learners._working_set import Box, solve
from tutti.types import Array

_SAMPLE = 64  # rows whose f is computed again in float64
_SHARE = 0.25  # of tol, by which float32 may be off


@dataclass(frozen=True)
class Part:
    """Rows of a binary problem, with what is known of its solution there.

    Parameters
    ----------
    ids : (m,) places in the rooms, ascending.   target : (m,) -1 or 1, or the targets of a regression.
    bound : (m,) C of each row.   beta : (m,) signed dual variables.   f : (m,) target - K beta over the whole problem.
    """

    ids: Array
    target: Array
    bound: Array
    beta: Array
    f: Array

    def only(self, chosen: Array) -> Part:
        """Return some of the rows."""
        return Part(*(getattr(self, name)[chosen] for name in ("ids", "target", "bound", "beta", "f")))

    def support(self) -> Part:
        """Return the support vectors."""
        return self.only(self.beta != 0)


@dataclass(frozen=True)
class Found:
    """What came of a `Part`: its variables moved, the intercept, the dual objective, steps, 1 if ``tol`` was met."""

    part: Part
    intercept: float
    objective: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class Solver:
    """How binary problems are solved; see `tutti.learners.kernel_svm.KernelMachine` for the parameters."""

    kernel: Kernel
    epsilon: float | None
    tol: float
    n_bytes: int
    most: int
    pieces: Pieces
    alive: Callable[[], None] = field(default=lambda: None)
    """Called now and then."""

    def solve(self, x: Array, part: Part) -> Found:
        """Return the solution over the rows of a part, from where it stands; ``x`` are its rows.

        float32 is enough as long as f comes out the same in float64, within a part of ``tol``; else all is done anew.
        """
        if not len(x):  # two leaves of one class only have no support vectors to merge
            return self._judged(part, 0)
        narrow = points(x, np.float32)
        found, steps = self._in(narrow, part, self.most)
        if self._off(x, found) > _SHARE * self.tol:
            wide = points(x, np.float64)
            at = replace(found, f=found.target - self._times(wide, wide, found.beta))
            found, more = self._in(wide, at, self.most if self.most < 0 else max(self.most - steps, 0))
            steps += more
        return self._judged(found, steps)

    def spread(self, x: Array, part: Part, support: Array, beta: Array) -> Part:
        """Return the part with the f that a solution, given by its support vectors, has there."""
        return replace(part, f=part.target - self.values(x, support, beta))

    def values(self, x: Array, support: Array, beta: Array) -> Array:
        """Return K beta of rows ``x``: in float32 where that makes no difference that counts."""
        rows = _some(len(x))
        exact = self._times(points(x[rows], np.float64), points(support, np.float64), beta)
        found = self._times(points(x, np.float32), points(support, np.float32), beta)
        if np.abs(found[rows] - exact).max(initial=0.0) > _SHARE * self.tol:
            found = self._times(points(x, np.float64), points(support, np.float64), beta)
        return found

    def violators(self, part: Part, middle: float, most: int) -> Array:
        """Return rows whose f is on the wrong side of the middle by ``tol`` / 2: the worst first, so many at most."""
        box = self._box(part)
        over = np.where(box.beta < box.high, box.f - middle, -np.inf)
        under = np.where(box.beta > box.low, middle - box.f, -np.inf)
        worst = np.maximum(over, under).reshape(-1, len(part.ids)).max(axis=0)
        chosen = np.flatnonzero(worst >= self.tol / 2)
        return chosen[np.argsort(-worst[chosen], kind="stable")][:most]

    def middle(self, part: Part) -> float:
        """Return the middle between the ends of a solution; see `Box.ends`."""
        top, bottom = self._box(part).ends()
        return (top + bottom) / 2 if np.isfinite(top + bottom) else (top if np.isfinite(top) else bottom)

    def _times(self, left: Points, right: Points, beta: Array) -> Array:
        moved = beta != 0
        return self.kernel.times(left, right.take(moved), beta[moved], self.pieces)

    def _off(self, x: Array, part: Part) -> float:
        rows, moved = _some(len(x)), part.beta != 0
        exact = self._times(points(x[rows], np.float64), points(x[moved], np.float64), part.beta[moved])
        return float(np.abs(part.target[rows] - exact - part.f[rows]).max(initial=0.0))

    def _box(self, part: Part) -> Box:
        b, f = part.beta, part.f
        if self.epsilon is None:
            positive = part.target > 0
            return Box(np.where(positive, 0.0, -part.bound), np.where(positive, part.bound, 0.0), b.copy(), f.copy())
        zero, e = np.zeros(len(b)), self.epsilon
        return Box(
            np.concatenate([zero, -part.bound]),
            np.concatenate([part.bound, zero]),
            np.concatenate([np.maximum(b, 0.0), np.minimum(b, 0.0)]),
            np.concatenate([f - e, f + e]),
        )

    def _in(self, rows: Points, part: Part, most: int) -> tuple[Part, int]:
        box, n = self._box(part), len(part.ids)
        steps = solve(
            self.kernel,
            rows,
            box,
            tol=self.tol,
            n_bytes=self.n_bytes,
            most=most,
            alive=self.alive,
            pieces=self.pieces,
        )
        if self.epsilon is None:
            return replace(part, beta=box.beta, f=box.f), steps
        return replace(part, beta=box.beta[:n] + box.beta[n:], f=box.f[:n] + self.epsilon), steps

    def _judged(self, part: Part, steps: int) -> Found:
        box, b = self._box(part), part.beta
        top, bottom = box.ends()
        free = (box.beta > box.low) & (box.beta < box.high)
        intercept = float(box.f[free].mean()) if free.any() else self.middle(part)
        slack = 0.0 if self.epsilon is None else self.epsilon * float(np.abs(b).sum())
        objective = float(part.target @ b - 0.5 * (b @ (part.target - part.f))) - slack
        return Found(part, intercept, objective, steps, top - bottom < self.tol)


def _some(n: int) -> Array:
    """Return a few places among n, spread evenly."""
    return np.unique(np.linspace(0, max(n - 1, 0), min(_SAMPLE, n)).astype(np.int64))
