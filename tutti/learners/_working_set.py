"""A quadratic problem with a box and one equation, solved on working sets: few, large blocks of kernel rows.

    max  sum_v p_v b_v - 1/2 b'Kb,   low <= b <= high,   sum b fixed;   f = p - K b

Each turn takes the variables that violate the optimality most, half of them new, computes the kernel rows that are
missing in one product, solves the small problem by SMO and carries the change over to all others.

Source: Joachims (1999), "Making large-scale SVM learning practical"; Wen et al. (2018), "ThunderSVM".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tutti.learners._kernel_rows import Kernel, Points
from tutti.learners._pieces import Pieces
from tutti.types import Array

_LEAST, _MOST = 256, 512  # variables of a working set
_SHARE = 16  # of the rows, up to which it grows: long kernel rows are made faster many at a time
_STEPS = 40  # of the small problem, for each of its variables
_PART = 0.1  # of the gap, that the small problem may leave
_PIECE = 64  # rows of the small problem


@dataclass
class Box:
    """The variables; variable v belongs to row v modulo the number of rows (a regression has two for each)."""

    low: Array
    high: Array
    beta: Array
    f: Array

    def ends(self) -> tuple[float, float]:
        """Return (max f over those that may rise, min f over those that may fall); optimal where they meet."""
        up, down = self.f[self.beta < self.high], self.f[self.beta > self.low]
        return float(up.max(initial=-np.inf)), float(down.min(initial=np.inf))


class Cache:
    """Kernel rows by row number, as many as fit; the least lately used make room.

    Parameters
    ----------
    kernel, points : whose rows.   n_bytes : at most.   least : rows that must fit.   pieces : of what is computed.
    """

    def __init__(self, kernel: Kernel, points: Points, n_bytes: int, least: int, pieces: Pieces) -> None:
        self._kernel, self._points, self._pieces, n = kernel, points, pieces, points.n_rows
        room = min(max(n_bytes // (points.x.itemsize * n), least), n)
        self.rows = np.empty((room, n), points.x.dtype)
        self._slot = np.full(n, -1, np.int64)
        self._owner, self._used = np.full(room, -1, np.int64), np.full(room, -1, np.int64)
        self._clock = 0

    def slots(self, rows: Array) -> Array:
        """Return where the kernel rows of different rows lie; what is missing is computed."""
        self._clock += 1
        found = self._slot[rows]
        self._used[found[found >= 0]] = self._clock
        missing = rows[found < 0]
        if len(missing):
            self._compute(missing)
        return self._slot[rows]

    def _compute(self, missing: Array) -> None:
        slots, some = np.argsort(self._used, kind="stable")[: len(missing)], self._points.take(missing)
        old = self._owner[slots]
        self._slot[old[old >= 0]] = -1

        def fill(lo: int, hi: int) -> None:
            self.rows[slots, lo:hi] = self._kernel.block(some, self._points.take(slice(lo, hi)))

        self._pieces.each(fill, self._points.n_rows)
        self._slot[missing], self._owner[slots], self._used[slots] = slots, missing, self._clock


def solve(
    kernel: Kernel,
    points: Points,
    box: Box,
    *,
    tol: float,
    n_bytes: int,
    most: int,
    alive: Callable[[], None],
    pieces: Pieces,
) -> int:
    """Move ``beta`` and ``f`` of the box until its ends are closer than ``tol``; return the steps made.

    Parameters
    ----------
    n_bytes : of kernel rows that are kept.   most : steps, -1: no limit.   alive : called at every turn.
    pieces : of what is done for all rows.
    """
    from tutti.learners._kernels.smo import gather, smo, subtract

    n, m = points.n_rows, len(box.beta)
    size = min(max(n // _SHARE, _LEAST), _MOST, m)
    cache, diagonal = Cache(kernel, points, n_bytes, min(size, n), pieces), kernel.diagonal(points)
    last, steps = np.empty(0, np.int64), 0
    while True:
        alive()
        top, bottom = box.ends()
        if top - bottom < tol or 0 <= most <= steps:
            return steps
        last = _choose(box, top, bottom, size, last)
        rows, place = np.unique(last % n, return_inverse=True)
        slots = cache.slots(rows)
        small = np.empty((len(last), len(last)), cache.rows.dtype)
        pieces.each(partial(gather, cache.rows, slots[place], last % n, small), len(last), _PIECE)
        beta, f = box.beta[last], box.f[last]
        limit = _STEPS * len(last) if most < 0 else min(_STEPS * len(last), most - steps)
        goal = max(tol, _PART * (top - bottom))
        steps += smo(small, diagonal[last % n], box.low[last], box.high[last], beta, f, goal, limit)
        change = np.bincount(place, beta - box.beta[last], len(rows))
        box.beta[last] = beta
        moved = change != 0
        for lo in range(0, m, n):
            pieces.each(partial(subtract, cache.rows, slots[moved], change[moved], box.f[lo : lo + n]), n)


def _choose(box: Box, top: float, bottom: float, size: int, last: Array) -> Array:
    """Return the working set: half of the ``last`` one, then those that violate most on either side."""
    if size == len(box.f):
        return np.arange(size)
    keep = last[len(last) - min(size // 2, len(last)) :]
    taken = np.zeros(len(box.f), bool)
    taken[keep] = True
    chosen, room = [keep], (size - len(keep)) // 2
    for key in (
        np.where((box.beta < box.high) & (box.f > bottom), -box.f, np.inf),
        np.where((box.beta > box.low) & (box.f < top), box.f, np.inf),
    ):
        key[taken] = np.inf
        worst = np.argpartition(key, room)[:room]
        worst = worst[np.isfinite(key[worst])]
        worst = worst[np.argsort(key[worst], kind="stable")]
        taken[worst] = True
        chosen.append(worst)
    return np.concatenate(chosen)
