"""Models of the same rows that differ in the strength C of their loss: one load of the rows serves all of them.

Every pass multiplies the rows with the weights of all models at once.  The models at some of the strengths, the
anchors, are solved first.  What an anchor learned from all rows, and a sample does not know, is the difference of the
two gradients; it changes little along the path, so that in between it is interpolated:

    w(C) = argmin share/2 |w|^2 + C (F_S(w) + share <t(C), w>),    t(C_a) = F'(w_a) - F_S'(w_a) / share at an anchor a,

F the sum of losses over all rows, F_S over the sample, ``share`` the sample's part of the rows.  That is solved on the
sample alone and leaves little to the passes over all rows.  Each model is certified by a gap of its own, as in
`newton`: the dual variables of the sample's rows are re-optimised with those of all other rows held fixed.

Source: Shamir, Srebro, Zhang (2014), "Communication-efficient distributed optimization using an approximate
Newton-type method" (the corrected objective of a sample).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tutti.learners._certificate import conjugates, dual, n_sides, penalty
from tutti.learners._groups import Groups
from tutti.learners._margins import Rows, add_hessian, frozen, margins_of, pieces, precision_of, scatter
from tutti.learners._problem import LinearProblem
from tutti.learners._sample import sample_block
from tutti.protocols import ShardData
from tutti.types import Array, Block, Csr, Round

_ALIKE = 0.1  # curvatures that differ by less give one Hessian: a sample's is farther from that of all rows
_ENOUGH = 3e-2  # relative decrement at which the smaller sample has told enough, but for the step that follows
_SLOW = 0.7  # a decrement that shrinks less from pass to pass will not get there
_FAR = 0.1  # relative decrement over all rows at which the sample's optimum, and its Hessian there, mean little
_MOST_ROUNDS, _MOST_PASSES, _MOST_POLISHES = 12, 12, 12
_POLISH = 3.0  # gaps in units of what is allowed from which on a try on the sample costs less than one more pass

Sums = dict[str, Array]


@dataclass
class Solved:
    """Models in the order of the strengths asked for.

    Parameters
    ----------
    coef, intercept : (K, d, n_outputs), (K, n_outputs).
    primal, gap : (K,) objective, and its proved distance to the minimum.
    certified : (K,) whether the gap is at most tol times the objective.
    passes : (K,) passes over all rows.
    histories : what was known of each model after each of its rounds, on the sample or on all rows, until it was
        certified; seconds since all of them were begun.
    seconds : what all of them took together.
    n_rounds : rounds of all of them; one may serve many models.
    """

    coef: Array
    intercept: Array
    primal: Array
    gap: Array
    certified: Array
    passes: Array
    histories: tuple[tuple[Round, ...], ...]
    seconds: float
    n_rounds: int


def able(problem: LinearProblem, n_features: int, n_outputs: int, n_strengths: int) -> bool:
    """Tell whether these models can share their passes, within 256 MB of Hessians."""
    smooth = problem.loss in ("logistic", "squared_hinge")
    apart = problem.loss == "squared_hinge" and n_sides(problem) == 2
    return smooth and not apart and 8 * n_strengths * n_outputs * (n_features + 1) ** 2 <= 1 << 28


def solve(
    problem: LinearProblem,
    strengths: Sequence[float],
    data: ShardData,
    n_outputs: int,
    fractions: Sequence[float],
    tol: float,
    real: type[np.floating],
    seed: int,
) -> Solved:
    """Minimise the problem for every C of ``strengths`` (its own C is not looked at); see the module.

    Parameters
    ----------
    n_outputs : 1, or the number of classes, each against the rest.
    fractions : parts of the rows to begin on, ascending; the last one is 1.
    real : arithmetic of the passes.
    seed : base of the sample's random numbers.
    """
    order = np.argsort(np.asarray(strengths, np.float64), kind="stable")
    path = _Path(problem, np.asarray(strengths, np.float64)[order], data, n_outputs, fractions, tol, real, seed)
    path.run()
    path.close()
    back = np.argsort(order, kind="stable")
    shape = len(order), n_outputs

    def named(values: Array) -> Array:
        return values.reshape(*shape, *values.shape[1:])[back]

    primal, certified = named(path.primal).sum(axis=1), named(path.certified).min(axis=1)
    gap = named(path.gaps()).sum(axis=1)
    coef = named(path.point[:, : path.d]).transpose(0, 2, 1)
    intercept = named(path.point[:, path.d] if path.has_intercept else np.zeros(len(path.point)))
    passes, histories = named(path.passes).max(axis=1), tuple(path.history(int(place)) for place in back)
    seconds, n_rounds = path.seconds(), len(path.noted)
    return Solved(np.ascontiguousarray(coef), intercept, primal, gap, certified, passes, histories, seconds, n_rounds)


@dataclass(frozen=True)
class _Sample:
    """Rows that are at hand: all in one block, their part of all rows."""

    block: Block
    share: float


@dataclass(frozen=True)
class _Noted:
    """What was known of all outputs when a round of some of them, ``at``, over a share of the rows had been judged."""

    at: Array
    share: float
    seconds: float
    primal: Array
    gap: Array


class _Search:
    """A step along a direction for each output, cut until its value falls enough (Armijo); ``live`` are under way."""

    def __init__(self, point: Array, precision: float) -> None:
        self.base, self.trial, self._precision = point.copy(), point.copy(), precision
        self.value, self.slope = np.full(len(point), np.inf), np.zeros(len(point))
        self.direction, self.step = np.zeros_like(point), np.ones(len(point))
        self.live = np.arange(len(point))

    def judge(self, value: Array) -> Array:
        """Move the base to the trial points that are low enough, and tell which of the live ones are."""
        live = self.live
        room = 1e-4 * self.step[live] * self.slope[live] + self._precision * np.abs(value)
        fine: Array = np.isfinite(value) & (value <= self.value[live] + room)
        good = live[fine]
        self.base[good], self.value[good] = self.trial[good], value[fine]
        self.step[live[~fine]] *= 0.25
        return fine

    def aim(self, at: Array, direction: Array, grad: Array) -> None:
        """Begin with a whole step along a direction."""
        self.direction[at], self.slope[at], self.step[at] = direction, (direction * grad).sum(axis=1), 1.0

    def decrement(self, at: Array) -> Array:
        """Return how far above its minimum the quadratic model of the value is."""
        found: Array = -0.5 * self.slope[at]
        return found

    def go(self, live: Array) -> None:
        """Go on with these outputs."""
        self.live = live
        self.trial[live] = self.base[live] + self.step[live, None] * self.direction[live]


class _Path:
    """All outputs of all models; an output is a class of a model, and ``at`` always holds numbers of outputs."""

    def __init__(
        self,
        problem: LinearProblem,
        strengths: Array,
        data: ShardData,
        n_outputs: int,
        fractions: Sequence[float],
        tol: float,
        real: type[np.floating],
        seed: int,
    ) -> None:
        self.problem, self.tol, self.real = replace(problem, C=1.0), tol, real
        self.precision = precision_of(real)
        self.n_models, self.n_outputs = len(strengths), n_outputs
        self.block = data.block(0)
        x = self.block.x
        self.d = x.n_features if isinstance(x, Csr) else x.shape[1]
        self.c = np.repeat(strengths, n_outputs)
        self.positive = np.tile(np.arange(n_outputs) if n_outputs > 1 else np.ones(1, np.int64), self.n_models)
        n_codes = max(n_outputs, 2)
        by_class = np.ones(n_codes) if problem.class_weight is None else np.asarray(problem.class_weight)
        self.tables = self.c[:, None] * by_class
        self.has_intercept = problem.intercept != "none"
        self.sides = n_sides(problem)
        drawn = [sample_block(data, fraction, seed) for fraction in fractions[:-1]] or [self.block]
        self.samples = [_Sample(block, len(block.y) / data.n_rows) for block in drawn]
        self.whole = _Sample(self.block, 1.0)
        n, size = len(self.c), self.d + self.has_intercept
        self.point = np.zeros((n, size))
        self.hess = np.zeros((n, size, size))
        self.tilt = np.zeros((n, size))  # per unit of C
        self.primal, self.lower, self.rounding = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n)
        self.certified, self.passes = np.zeros(n, bool), np.zeros(n, np.int64)
        self.noted: list[_Noted] = []
        self._open: list[tuple[Array, float]] = []
        self._began = time.perf_counter()

    def run(self) -> None:
        """Solve the middle of the path, then its ends, then all that lies between."""
        models, middle = np.arange(self.n_models), self.n_models // 2
        known = models[middle : middle + 1]
        first = self._outputs(known)
        for sample in self.samples:
            self._descend(sample, first, self.tol if sample.share == 1 else _ENOUGH)
        self._finish(first)
        for chosen in (models[[0, -1]], models):
            new = np.setdiff1d(chosen, known)
            if len(new):
                self._predict(known, new)
                at = self._outputs(new)
                self._descend(self.samples[-1], at, self.tol)
                self._finish(at)
                known = np.union1d(known, new)

    def _outputs(self, models: Array) -> Array:
        return (models[:, None] * self.n_outputs + np.arange(self.n_outputs)).ravel()

    def _predict(self, known: Array, new: Array) -> None:
        """Interpolate start and correction in ln C; beyond the last known model they stay."""
        grid = np.log(self.c[:: self.n_outputs])
        for model in new:
            right = int(np.searchsorted(known, model))
            low, high = known[max(right - 1, 0)], known[min(right, len(known) - 1)]
            apart = grid[high] - grid[low]
            part = (grid[model] - grid[low]) / apart if apart > 0 else 0.0
            at, lo, hi = (self._outputs(np.array([i])) for i in (model, low, high))
            self.point[at] = (1 - part) * self.point[lo] + part * self.point[hi]
            self.tilt[at] = (1 - part) * self.tilt[lo] + part * self.tilt[hi]

    # on a sample

    def _descend(self, sample: _Sample, at: Array, enough: float) -> None:
        """Take Newton steps on the sample until the next one is the last that matters, and take that one, too."""
        share = sample.share
        tilt = share * self.c[at, None] * self.tilt[at]
        search = _Search(self.point[at], self.precision)
        for _ in range(_MOST_ROUNDS):
            live = search.live
            trial = search.trial[live]
            sums = self._round(sample, at[live], trial, curvature=True)
            found, grad = self._value(sums, trial, share)
            found, grad = found + (tilt[live] * trial).sum(axis=1), grad + tilt[live]
            fine = search.judge(found)
            good = live[fine]
            hess = self._hessians(sample, sums["r"][fine])
            self.hess[at[good]] = hess
            search.aim(good, self._aim(hess, share, grad[fine]), grad[fine])
            near = fine & (search.decrement(live) <= enough * np.abs(found))
            search.go(live)
            search.live = live[~near]
            if not len(search.live):
                break
        search.trial[search.live] = search.base[search.live]
        self.point[at] = search.trial

    def _hessians(self, sample: _Sample, r: Array) -> Array:
        """Return a Hessian per output; outputs whose curvatures are nearly proportional share the product."""
        size = self.d + self.has_intercept
        found = np.zeros((len(r), size, size))
        totals = r.sum(axis=1, dtype=np.float64)
        anchor = -1
        for o in range(len(r)):
            scale = totals[o] / totals[anchor] if anchor >= 0 and totals[anchor] > 0 else 0.0
            if scale > 0 and np.abs(r[o] - r.dtype.type(scale) * r[anchor]).sum() <= _ALIKE * totals[o]:
                found[o] = scale * found[anchor]
            else:
                anchor = o
                add_hessian(sample.block.x, r[o], self.has_intercept, found[o])
        return found

    def _renew(self, at: Array, point: Array) -> None:
        """Take the Hessians again, at points whose pass over all rows has not been judged to the end."""
        sample = self.samples[-1]
        self._open.append((at, sample.share))
        self.hess[at] = self._hessians(sample, self._collect(sample.block, at, point, curvature=True)["r"])

    # on all rows

    def _finish(self, at: Array) -> None:
        """Take passes over all rows with the sample's Hessian until every output is certified, or gets no nearer."""
        share = self.samples[-1].share
        search = _Search(self.point[at], self.precision)
        before, slopes = np.full(len(at), np.inf), np.full_like(search.base, np.nan)
        bent = self.hess[at]
        for _ in range(_MOST_PASSES):
            live = search.live
            trial, move = search.trial[live], search.trial[live] - search.base[live]
            sums = self._round(self.whole, at[live], trial)
            self.passes[at[live]] += 1
            found, grad = self._value(sums, trial, 1.0)
            fine = search.judge(found)
            good = live[fine]
            if len(good):
                _learn(bent, share, good, move[fine], grad[fine] - slopes[good], self._ridge())
                slopes[good], self.point[at[good]] = grad[fine], search.base[good]
                search.aim(good, self._aim(bent[good], share, share * slopes[good]), slopes[good])
                stale = np.isinf(before[good]) & (search.decrement(good) > _FAR * np.abs(search.value[good]))
                if stale.any():
                    old = good[stale]
                    self._renew(at[old], search.base[old])
                    bent[old] = self.hess[at[old]]
                    search.aim(old, self._aim(bent[old], share, share * slopes[old]), slopes[old])
                self._bound(at[good], search.base[good], _chosen(sums, fine), grad[fine], search.decrement(good))
            stuck = np.zeros(len(at), bool)
            stuck[good] = search.decrement(good) > _SLOW * before[good]
            before[good] = search.decrement(good)
            search.go(live[~self.certified[at[live]] & ~stuck[live] & (search.step[live] > 0.01)])
            if not len(search.live):
                return

    def _bound(self, at: Array, point: Array, full: Sums, grad: Array, decrement: Array) -> None:
        """Prove what can be proved about points at which all rows were summed, and learn the sample's correction."""
        sample = self.samples[-1]
        before = self._collect(sample.block, at, point, apart=True)
        self.tilt[at] = (self._pull(before) / sample.share - self._pull(full)) / self.c[at, None]
        self.primal[at], self.rounding[at] = self._primal(full, before, point)
        allowed = self.tol * np.abs(self.primal[at])
        likely = decrement + np.minimum(decrement / sample.share, 0.5 * (grad * grad).sum(axis=1))
        live = np.flatnonzero(likely <= _POLISH * allowed)
        if not len(live):
            return
        after, moved, pull = _chosen(before, live), point[live].copy(), self._pull(full)[live]
        last = np.full(len(live), np.inf)
        for turn in range(_MOST_POLISHES):
            mine = at[live]
            lower = self._lower(_chosen(full, live), _chosen(before, live), after, point[live], moved)
            self.lower[mine] = np.fmax(self.lower[mine], lower - 2 * self.rounding[mine])
            gap = self.gaps()[mine]
            self.certified[mine] = gap <= allowed[live]
            paying = ~self.certified[mine] & ((gap < 0.7 * last) | (turn < 2))
            live, moved, last, pull = live[paying], moved[paying], gap[paying], pull[paying]
            if not len(live):
                return
            moved = moved + self._aim(self.hess[at[live]], 1.0, self._ridge() * moved - pull)
            after = self._round(sample, at[live], moved, apart=True)
            pull = self._pull(_chosen(full, live)) - self._pull(_chosen(before, live)) + self._pull(after)

    def _lower(self, full: Sums, before: Sums, after: Sums, point: Array, moved: Array) -> Array:
        """Return the dual bound of the sample's variables of ``after`` and those of all other rows of ``full``.

        A free intercept asks for as much on one side as on the other: the sample's rows of the side that has too much
        are scaled down, which `dual` does with two parts, those rows and all other ones.
        """
        (phi, _), (phi_before, _) = (self._conjugates(sums, point) for sums in (full, before))
        phi_after, slope = self._conjugates(after, moved)
        a = full["a"] - before["a"] + after["a"]
        v = full["v"].sum(axis=0) - before["v"].sum(axis=0) + after["v"].sum(axis=0)
        if self.sides == 1:
            return dual(self.problem, v[None], a, phi - phi_before + phi_after)
        every, heavy = np.arange(len(point)), a.argmax(axis=0)
        part_a, part_phi = after["a"][heavy, every], phi_after[heavy, every]
        part_v = after["v"][heavy, :, every].T
        rest_a = part_a - np.abs(a[1] - a[0])
        rest_phi = (phi - phi_before + phi_after).sum(axis=0) - part_phi
        curve = np.stack([np.zeros(len(point)), after["curve"][heavy, every]])
        parts = np.stack([v - part_v, part_v]), np.stack([rest_a, part_a]), np.stack([rest_phi, part_phi])
        found = dual(self.problem, *parts, np.stack([np.zeros(len(point)), slope[heavy, every]]), curve)
        return np.where(rest_a > 0, found, -np.inf)

    def _conjugates(self, sums: Sums, point: Array) -> tuple[Array, Array]:
        return conjugates(self.problem, *self._halves(point), sums["loss"], sums["v"], sums["a"])

    # what was known when

    def gaps(self) -> Array:
        """Return how far every output is at most above its minimum; inf where nothing is known yet."""
        gaps: Array = np.maximum(self.primal - self.lower, 0.0) + 2.0 * self.rounding
        return gaps

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def _round(self, sample: _Sample, at: Array, point: Array, curvature: bool = False, apart: bool = False) -> Sums:
        """Collect sums that are a round of these outputs; the round before has been judged by now."""
        self.close()
        self._open = [(at, sample.share)]
        return self._collect(sample.block, at, point, curvature, apart)

    def close(self) -> None:
        """Note what is known now that the rounds that were begun last have been judged."""
        seconds, primal, gaps = self.seconds(), self.primal.copy(), self.gaps()
        self.noted += [_Noted(at, share, seconds, primal, gaps) for at, share in self._open]
        self._open = []

    def history(self, model: int) -> tuple[Round, ...]:
        """Return the rounds in which outputs of this model took part."""
        mine, passes = self._outputs(np.array([model])), 0.0
        found: list[Round] = []
        for noted in self.noted:
            if np.isin(mine, noted.at).any():
                passes += noted.share
                primal, gap = float(noted.primal[mine].sum()), float(noted.gap[mine].sum())
                known = primal if np.isfinite(primal) else np.nan
                found.append(Round(len(found) + 1, noted.seconds, known, gap, passes, "gradient"))
        return tuple(found)

    # sums, and what follows from them

    def _groups(self, n_outputs: int) -> Groups:
        return Groups(self.problem, self.d, n_outputs)

    def _halves(self, point: Array) -> tuple[Array, Array]:
        return self._groups(len(point)).unpack(point)

    def _ridge(self) -> Array:
        return self._groups(1).ridge()

    def _aim(self, hess: Array, share: float, gradient: Array) -> Array:
        everyone = np.ones(len(gradient), bool)
        return self._groups(len(gradient)).aim(hess, share, gradient, everyone, self.real == np.float32)

    def _pull(self, sums: Sums) -> Array:
        """Return minus the gradient of the losses, (k, D)."""
        return self._groups(sums["a"].shape[1]).pack(sums["v"].sum(axis=0), sums["a"][1] - sums["a"][0])

    def _value(self, sums: Sums, point: Array, share: float) -> tuple[Array, Array]:
        return self._groups(len(point)).value(*self._halves(point), sums, share)

    def _primal(self, full: Sums, before: Sums, point: Array) -> tuple[Array, Array]:
        """Return objective and rounding (see `bounds`); how much cancels between the sides the sample tells."""
        coef, intercept = self._halves(point)
        primal = penalty(self.problem, coef, intercept) + full["loss"].sum(axis=0)
        phi = np.abs(self._conjugates(full, point)[0]).sum(axis=0)
        pull = np.abs(full["v"].sum(axis=0))
        sizes = np.maximum(np.abs(before["v"]).sum(axis=0) / self.samples[-1].share, pull)
        swing = ((np.abs(coef) + pull) * sizes).sum(axis=0) + np.abs(intercept) * full["a"].sum(axis=0)
        return primal, self.precision * (np.abs(primal) + phi + swing)

    def _collect(self, block: Block, at: Array, point: Array, curvature: bool = False, apart: bool = False) -> Sums:
        """Sum over the rows at one point per output; ``apart`` keeps the sides of v where the problem has two."""
        from tutti.learners._kernels.links import LOSSES
        from tutti.learners._kernels.strengths import chunk_strengths, dense_strengths, padded

        coef, intercept = self._halves(point)
        k, sides, code = len(at), self.sides if apart else 1, LOSSES[self.problem.loss]
        sums, r = np.zeros((k, 2, 4)), np.empty((k, len(block.y) if curvature else 0), self.real)
        sample = frozen(np.empty(0) if block.weight is None else block.weight)
        rows = frozen(block.y), self.tables[at], sample, self.positive[at]
        if isinstance(block.x, Csr):
            seen, total = 0.0, np.zeros((self.d, sides * k))
            w, b = np.ascontiguousarray(coef, self.real), np.ascontiguousarray(intercept, self.real)
            for piece in pieces(Rows(block), self.d, self.real):
                z, lo = margins_of(piece.x, w, b), piece.start - block.start
                g = np.empty((sides * k, z.shape[1]), self.real)
                seen += chunk_strengths(z, rows[0], lo, *rows[1:], code, sides == 2, g, sums, r)
                scatter(piece.x, g, total)
            v = total.T
        else:
            w, b = np.zeros((padded(k), self.d), self.real), np.zeros(padded(k), self.real)
            w[:k], b[:k], v = coef.T, intercept, np.zeros((padded(sides * k), self.d))
            seen = dense_strengths(frozen(block.x), *rows, w, b, code, sides == 2, v, sums, r)
        if not np.isfinite(seen):
            raise FloatingPointError("NaN or infinity in the rows, or weights that overflow")
        loss, a, smooth, curve = (np.ascontiguousarray(sums[:, :, i].T) for i in range(4))
        v = np.ascontiguousarray(v[: sides * k].reshape(sides, k, self.d).transpose(0, 2, 1))
        return {"loss": loss, "a": a, "smooth": smooth, "curve": curve, "v": v, "r": r}


def _learn(hess: Array, share: float, at: Array, move: Array, change: Array, ridge: Array) -> None:
    """Correct Hessians of a sample by what all rows said on the last move (BFGS); nan in ``change``: nothing yet."""
    for o, s, y in zip(at, move, share * change, strict=True):
        bend = y @ s
        if bend > 0 and np.isfinite(bend):
            known = hess[o] @ s + share * ridge * s
            hess[o] += np.outer(y / bend, y) - np.outer(known / (known @ s), known)


def _chosen(sums: Sums, at: Array) -> Sums:
    """Return the sums of some outputs."""
    return {name: array[at] if name == "r" else array[..., at] for name, array in sums.items()}
