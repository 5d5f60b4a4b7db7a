"""Newton's method with the Hessian of a row sample: for many more rows than features, two to four passes over the data.

It starts on about 1 % of the rows, goes on with about 6 %, then takes full gradients with the sample's Hessian.  When
the full Newton decrement is small, the sample is used once more: the dual variables of its rows are re-optimised with
those of all other rows held fixed, which proves a gap that the plain dual point would need two more passes for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.learners import _newton_rules as rules
from tutti.learners._groups import Groups
from tutti.learners._interior import RowState, predict, probe, settle
from tutti.learners._interior import warm_up as interior_kernels
from tutti.learners._margins import Request, Rows, all_rows, arithmetic, collect, two_rows, warm_up
from tutti.learners._newton_rules import Rules
from tutti.learners._problem import LinearProblem, progress_of
from tutti.learners._sample import sample_rows
from tutti.learners._strengths import Solved, able, solve
from tutti.learners.gram import MOMENTS, Gram
from tutti.protocols import ShardData
from tutti.types import Arrays, Cost, Kind, Order, Progress, Proposal, Schema, Update


@dataclass(frozen=True)
class _Private:
    """Samples by level, drawn once; the rows' interior-point states once the exact hinge is asked for."""

    samples: Mapping[int, list[Rows]] = field(default_factory=dict)
    states: list[RowState] | None = None


@dataclass(frozen=True)
class SampledNewton(Spec):
    """Damped Newton for all losses but the squared one, up to about 2,000 unknowns an output.

    The hinge is smoothed (Nesterov's way, width h) while that suffices for the certificate of the exact hinge; then an
    interior-point method takes over, as it does where the squared hinge's kinks let Newton zigzag; the
    epsilon-insensitive loss, two kinks a row, is its from the start.  Memory and traffic grow with K (d + 1)^2
    (multinomial: (K (d + 1))^2).

    Parameters
    ----------
    problem : what is minimised.
    tol : stop when the certified gap is at most tol times the objective.
    max_iter : most passes over all rows.
    sample : parts of the rows to start on, each at least 20 and 50 rows per unknown; data too small for them is used
        as a whole from the first round.

    Source: Erdogdu, Montanari (2015), "Convergence rates of sub-sampled Newton methods"; Nesterov (2005), "Smooth
    minimization of non-smooth functions".
    """

    problem: LinearProblem = field(default_factory=LinearProblem)
    tol: float = 1e-4
    max_iter: int = 200
    sample: tuple[float, float] = (0.01, 0.06)

    def __post_init__(self) -> None:
        if self.problem.loss == "squared":
            raise ParameterError("problem.loss", "squared", "write Gram(...), which solves it in one pass")

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels for this kind of data."""
        groups = Groups(self.problem, schema.n_features, self.problem.n_outputs(schema))
        if self.problem.loss == "epsilon_insensitive":
            self._ridge().prepare(schema)
        else:
            whole = self.problem.loss == "hinge" and len(self._fractions(schema, groups.size)) == 1
            real = np.float64 if whole else arithmetic(self.problem, schema, self.tol)
            warm_up(self.problem, schema, real, hessian=True)
        if self.problem.loss in ("hinge", "squared_hinge", "epsilon_insensitive"):
            interior_kernels(self.problem, two_rows(schema), groups.n_outputs, self._single())

    def cost(self, schema: Schema) -> Cost:
        """Estimate bytes and passes: a Hessian per group travels, a few passes suffice."""
        groups = Groups(self.problem, schema.n_features, self.problem.n_outputs(schema))
        hess = 8 * groups.n_groups * groups.size**2
        alone = len(self._fractions(schema, groups.size)) == 1
        flops = groups.size + 4.0 if alone else 0.1 * groups.size + 4.0
        return Cost(hess, passes=12.0 if alone else 4.0, rounds=12, flops_per_value=flops)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        """Return the shared state before the first round."""
        groups = Groups(self.problem, schema.n_features, self.problem.n_outputs(schema))
        wide = arithmetic(self.problem, schema, self.tol) == np.float64
        state = rules.begin(groups, schema.n_rows, self._fractions(schema, groups.size), wide, start)
        if self.problem.loss == "epsilon_insensitive":
            state["mode"][rules.PHASE] = rules.RIDGE
            state = {**self._ridge().init(schema, seed=seed), **state}
        return state

    def _fractions(self, schema: Schema, size: int) -> list[float]:
        if self.problem.loss == "epsilon_insensitive":
            return [1.0]
        n = max(schema.n_rows, 1)
        first, second = (max(f, k * size / n) for f, k in zip(self.sample, (20, 50), strict=True))
        return [f for f, most in ((first, 0.25), (second, 0.4)) if f <= most] + [1.0]

    def solve_path(self, strengths: Sequence[float], data: ShardData, schema: Schema, seed: int) -> Solved | None:
        """Minimise the problem for several C on rows that are one block in memory; None where that shares nothing.

        What is not certified in the end is left to a fit of its own.
        """
        n_outputs = self.problem.n_outputs(schema)
        if len(data.bounds) != 1 or not able(self.problem, schema.n_features, n_outputs, len(strengths)):
            return None
        fractions = self._fractions(schema, Groups(self.problem, schema.n_features, n_outputs).size)
        real = arithmetic(self.problem, schema, self.tol)
        return solve(self.problem, strengths, data, n_outputs, fractions, self.tol, real, seed)

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return _Private()

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Sum losses, gradients and, where the phase asks for them, Hessians at the trial point."""
        phase = shared["mode"][rules.PHASE]
        if phase == rules.RIDGE:
            return replace(self._ridge().propose(shared, None, data, order), private=private)
        if phase in (rules.SETTLE, rules.PREDICT, rules.PROBE):
            return self._propose_interior(shared, private, data)
        level, n_rows = rules.level_of(shared), data.n_rows
        rows: Iterable[Rows] = all_rows(data)
        if level < len(shared["fractions"]) - 1:
            if level not in private.samples:
                drawn = sample_rows(data, float(shared["fractions"][level]), order.seed)
                private = _Private({**private.samples, level: drawn}, private.states)
            rows = private.samples[level]
            n_rows = sum(r.n_rows for r in private.samples[level])
        real = np.float64 if shared["mode"][rules.WIDE] else np.float32
        request = Request(
            hessian=tuple(rules.wants_hessian(shared).tolist()),
            constants=self.problem.loss == "multinomial",
            widths=rules.widths_of(shared),
        )
        sums = collect(self.problem, data, rows, (shared["trial"], shared["trial_intercept"]), real, request)
        sums["rows"] = np.array([float(n_rows)])
        if phase == rules.POLISH and shared["mode"][rules.TRIES] == 0:
            point = shared["base"], shared["base_intercept"]
            before = collect(self.problem, data, rows, point, real, Request(widths=rules.widths_of(shared)))
            sums |= {f"before_{name}": before[name] for name in rules.PARTS}
        return Proposal(Update("gradient", sums), private)

    def _propose_interior(self, shared: Arrays, private: Any, data: ShardData) -> Proposal:
        rows = all_rows(data)
        if shared["mode"][rules.PHASE] == rules.SETTLE:
            point = shared["base"], shared["base_intercept"]
            begun = None if shared["mode"][rules.FRESH] else private.states
            last = shared["step"], shared["width"], float(shared["middle"][0]), shared["open"] > 0
            single = self._single() and not shared["mode"][rules.FINE]
            sums, states = settle(self.problem, data, rows, begun, point, *last, single=single)
            return Proposal(Update("gradient", sums), _Private(private.samples, states))
        direction = Groups(self.problem, *shared["base"].shape).unpack(shared["direction"])
        if shared["mode"][rules.PHASE] == rules.PREDICT:
            sums, states = predict(self.problem, rows, private.states, direction)
        else:
            sums, states = probe(self.problem, rows, private.states, direction, shared["mu"])
        return Proposal(Update("gradient", sums), _Private(private.samples, states))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Judge the trial point and choose the next one."""
        if shared["mode"][rules.PHASE] == rules.RIDGE:
            return self._begun(shared, merged)
        groups = Groups(self.problem, *shared["base"].shape)
        return Rules(groups, self.tol, self.max_iter).advance(shared, merged.arrays)

    def _single(self) -> bool:
        """Tell whether Hessians of an interior step begin in float32 where the rows are: they only aim."""
        return self.tol >= 1e-5

    def _ridge(self, width: float = 1.0) -> Gram:
        """Return what minimises the tube's loss with squares of the residuals over 2 ``width`` in its place."""
        return Gram(replace(self.problem, loss="squared", C=self.problem.C / width))

    def _begun(self, shared: Arrays, merged: Update) -> Arrays:
        """Begin an interior-point method where squares of the residuals do best; any start given is left aside.

        With a_+ - a_- proportional to the residuals the dual variables then fit the weights, which saves the steps
        that would bring both together.
        """
        if "gram" not in merged.arrays:
            return self._ridge().apply(shared, merged, 1.0)
        weight, total, square = (float(merged.arrays[k].flat[-1]) for k in ("weight", "total", "gram"))
        mean, square = (total / weight, square / weight) if weight > 0 else (0.0, 0.0)
        spread = math.sqrt(max(square - mean**2, 0.0))
        sums = {name: merged.arrays[name] / (spread or 1.0) for name in MOMENTS if name != "shift"}
        found = self._ridge(spread or 1.0).solved(shared, sums, 1.0)
        coef = found["coef"]
        left = found["status"][0] - 0.5 * float((coef**2).sum())  # half the sum of the squares, over the spread
        state = {name: array for name, array in shared.items() if name not in ("shift", "shifted")}
        state |= {"mode": shared["mode"].copy(), "status": shared["status"].copy()}
        middle = np.array([shared["shift"][-1] + mean]) * (self.problem.intercept == "free")
        state |= {"base": coef, "base_intercept": found["intercept"] - middle, "middle": middle}
        rest = math.sqrt(max(2.0 * left * spread / weight, 0.0)) if weight > 0 else 0.0
        state["status"][2] += 1.0
        width = np.full_like(shared["width"], max(rest, 1e-3 * spread) or 1.0)
        return rules.interior(state) | {"width": width}

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return proposal.private

    def progress(self, shared: Arrays) -> Progress:
        return progress_of(shared)
