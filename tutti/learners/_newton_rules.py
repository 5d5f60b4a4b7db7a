"""The state machine of `newton.SampledNewton`: from the shared state and merged sums to the next state, without data.

Phases of the shared array "mode": Newton steps on ever larger samples and then on all rows ("trial" is evaluated,
"base" is the last accepted point); polish, which re-optimises the sample's dual variables; the three rounds of an
interior step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutti.learners._certificate import Bounds, bounds, conjugates, dual, reached
from tutti.learners._groups import Groups
from tutti.learners._interior import longest, next_mu
from tutti.learners._margins import precision_of
from tutti.learners._problem import status
from tutti.types import Array, Arrays

LEVEL, PHASE, FRESH, WIDE, EXACT, TRIES, FULL, WARM, FINE = range(9)
"""Places in "mode": index into "fractions"; phase; 1 if the next point is accepted as it is; 1 for float64 arithmetic;
1 once Hessians are of all rows; rounds of the present level or polish, refused trials; passes over all rows; 1 while
the point is the one that the caller gave; 1 once Hessians of an interior step have to be summed in float64."""
NEWTON, POLISH, SETTLE, PREDICT, PROBE, RIDGE = range(6)
PARTS = ("loss", "a", "v", "curve")
"""Sums that a polish takes apart into those of the sample and those of all other rows."""

_WIDTHS = (2.0, 0.5, 0.15, 0.05)
_WINDOW, _LEAST_WIDTH, _CENTRAL = 0.25, 2e-3, _WIDTHS[1]
_LEVEL_TOL, _HINGE_TOL = 3e-2, 1e-2
_MOST_TRIES = 12
_LEAST_STEP = 1e-6

State = dict[str, Array]


def begin(groups: Groups, n_rows: int, fractions: Sequence[float], wide: bool, start: Arrays | None) -> State:
    """Return the shared state before the first round; a warm start skips the smaller sample."""
    shape = groups.n_features, groups.n_outputs
    coef = np.zeros(shape) if start is None else np.array(start["coef"], np.float64)
    intercept = np.zeros(shape[1]) if start is None else np.array(start["intercept"], np.float64)
    alone = len(fractions) == 1
    mode = np.zeros(9, np.int64)
    mode[[FRESH, WIDE, EXACT, WARM]] = 1, wide, alone, start is not None
    mode[LEVEL] = 0 if start is None else max(len(fractions) - 2, 0)
    n, size, width = groups.n_groups, groups.size, _WIDTHS[0 if start is None else -1]
    state = {
        "coef": coef,
        "intercept": intercept,
        "status": status(),
        "mode": mode,
        "fractions": np.array(fractions),
        "n_rows": np.array([float(n_rows)]),
        "share": np.ones(1),
        "base": coef.copy(),
        "base_intercept": intercept.copy(),
        "trial": coef.copy(),
        "trial_intercept": intercept.copy(),
        "value": np.full(n, np.inf),
        "grad": np.zeros((n, size)),
        "direction": np.zeros((n, size)),
        "step": np.ones(n),
        "decrement": np.full(n, np.inf),
        "hess": np.zeros((n, size, size)),
        "primal": np.full(n, np.inf),
        "rounding": np.zeros(n),
        "lower": np.full(n, -np.inf),
        "slack": np.zeros(n),
        "width": np.full(shape[1], width),
        "mu": np.zeros(n),
        "open": np.ones(n),
        "middle": np.zeros(1),
    }
    if alone and groups.problem.loss == "hinge":
        mode[WIDE] = 1
        return state if start is None else interior(state)
    return state


def level_of(shared: Arrays) -> int:
    """Return the index of the sample that the next round is about."""
    sampled = shared["mode"][PHASE] == POLISH
    return len(shared["fractions"]) - 2 if sampled else int(shared["mode"][LEVEL])


def widths_of(shared: Arrays) -> Array:
    """Return (2, K): the hinge's smoothing, and the wider window in which its curvature is measured."""
    return np.stack([shared["width"], np.maximum(shared["width"], _WINDOW)])


def wants_hessian(shared: Arrays) -> Array:
    """Return a flag per group, or nothing where no Hessian is due."""
    mode = shared["mode"]
    full = mode[LEVEL] == len(shared["fractions"]) - 1
    if mode[PHASE] == POLISH or (full and not mode[EXACT]):
        return np.zeros(0, bool)
    asked: Array = (shared["step"] > 0) | (not full) | bool(mode[FRESH])
    return asked


def _go(state: State, groups: Groups) -> State:
    """Set the trial point to base + step * direction."""
    coef, intercept = groups.unpack(state["step"][:, None] * state["direction"])
    state["trial"], state["trial_intercept"] = state["base"] + coef, state["base_intercept"] + intercept
    return state


def _again(state: State, groups: Groups) -> State:
    """Evaluate the base point itself anew: arithmetic or Hessian changed."""
    state["mode"][FRESH] = 1
    state["direction"], state["step"] = np.zeros_like(state["direction"]), np.ones_like(state["step"])
    return _go(state, groups)


def interior(state: State) -> State:
    """Hand hinges over to the interior-point method, in float64; a narrow width would begin it at the edge."""
    state["width"] = np.maximum(state["width"], _CENTRAL)
    state["mode"][[PHASE, FRESH, WIDE, EXACT]] = SETTLE, 1, 1, 1
    state["mode"][LEVEL] = len(state["fractions"]) - 1
    return state


def _gaps(state: State) -> Array:
    gaps: Array = np.maximum(state["primal"] + state["rounding"] - state["lower"], 0.0)
    return gaps


@dataclass(frozen=True)
class Rules:
    """What to do next; every method changes the fresh ``state`` it is given and returns it."""

    groups: Groups
    tol: float
    max_iter: int

    def advance(self, shared: Arrays, sums: Arrays) -> State:
        """Return the state after a round that brought ``sums``."""
        state = dict(shared)
        state["mode"], state["status"] = shared["mode"].copy(), shared["status"].copy()
        mode = state["mode"]
        phase = mode[PHASE]
        state["status"][2] += state["fractions"][level_of(state)]
        if phase == PREDICT:
            return self._predicted(state, sums)
        if phase == PROBE:
            return self._probed(state, sums)
        if phase == SETTLE:
            return self._settled(state, sums)
        if phase == POLISH:
            return self._polished(state, sums)
        point = state["trial"], state["trial_intercept"]
        found = bounds(self.groups.problem, *point, sums, precision_of(np.float64 if mode[WIDE] else np.float32))
        accepted = self._accept(state, sums, found)
        mode[FRESH] = 0
        if mode[LEVEL] < len(state["fractions"]) - 1:
            return self._climb(state, accepted)
        return self._judge(state, sums, found, accepted)

    def _accept(self, state: State, sums: Arrays, found: Bounds) -> Array:
        """Move the base to the trial point in every group where that is enough progress (Armijo)."""
        share = float(sums["rows"][0] / state["n_rows"][0])
        value, grad = self.groups.value(state["trial"], state["trial_intercept"], sums, share)
        step, slope = state["step"], (state["grad"] * state["direction"]).sum(axis=1)
        enough = value <= state["value"] + 1e-4 * step * slope + 2 * found.rounding
        accepted: Array = np.isfinite(value) & (enough | bool(state["mode"][FRESH]))
        if not accepted.all():
            state["step"] = np.where(accepted, step, self._shorter(state, sums, value, grad, slope))
        if "hess" in sums:
            asked = np.flatnonzero(wants_hessian(state))
            slots = np.flatnonzero(accepted[asked])
            state["hess"] = state["hess"].copy()
            state["hess"][asked[slots]] = sums["hess"][slots]
            state["share"] = np.array([share])
        keep = self.groups.by_output(accepted)
        state["base"] = np.where(keep, state["trial"], state["base"])
        state["base_intercept"] = np.where(keep, state["trial_intercept"], state["base_intercept"])
        state["value"] = np.where(accepted, value, state["value"])
        state["grad"] = np.where(accepted[:, None], grad, state["grad"])
        return accepted

    def _shorter(self, state: State, sums: Arrays, value: Array, grad: Array, slope: Array) -> Array:
        """Return the next step of the groups whose trial was refused.

        With curvatures at the trial: Newton from there back along the direction.  Where the curvature jumps on the way
        (a row enters the loss) this lands just behind the jump, while halving would creep up to it from this side.
        """
        step = state["step"]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            fitted = -0.5 * slope * step / (value - state["value"] - step * slope)
            shorter: Array = step * np.clip(np.nan_to_num(fitted, nan=0.1), 0.1, 0.5)
            if "hess" in sums:
                asked = np.flatnonzero(wants_hessian(state))
                along = state["direction"][asked]
                share = float(sums["rows"][0] / state["n_rows"][0])
                ridge = share * (self.groups.ridge() * along**2).sum(axis=1)
                bend = np.einsum("gi,gij,gj->g", along, sums["hess"], along) + ridge
                back = np.zeros_like(step)
                back[asked] = step[asked] - (grad[asked] * along).sum(axis=1) / bend
                shorter = np.where((back > 1e-3 * step) & (back < 0.9 * step), back, shorter)
        return shorter

    def _turn(self, state: State, which: Array) -> None:
        """Set new Newton directions, full steps and decrements of the groups ``which``."""
        share = float(state["share"][0])
        level = len(state["fractions"]) - 1 == state["mode"][LEVEL]
        gradient = share * state["grad"] if level else state["grad"]
        found = self.groups.aim(state["hess"], share, gradient, which, not state["mode"][WIDE])
        state["direction"] = np.where(which[:, None], found, state["direction"])
        state["decrement"] = np.where(which, -0.5 * (found * state["grad"]).sum(axis=1), state["decrement"])
        state["step"] = np.where(which, 1.0, state["step"])

    def _level_tol(self, mode: Array) -> float:
        """Return the relative decrement at which a sample has told enough, but for the step that follows.

        A narrowly smoothed hinge bends too sharply for one step to leave next to nothing, and the last sample's Hessian
        is that of the full passes.
        """
        return _HINGE_TOL if self.groups.problem.loss == "hinge" and mode[LEVEL] > 0 else _LEVEL_TOL

    def _climb(self, state: State, accepted: Array) -> State:
        """Take Newton steps on a sample until its optimum is near enough for the next larger one.

        A start that the sample cannot tell from its own optimum goes to all rows as it is: the sample's is farther.
        """
        mode = state["mode"]
        mode[TRIES] += 1
        self._turn(state, accepted)
        near = accepted & (state["decrement"] <= self._level_tol(mode) * np.abs(state["value"]))
        warm, mode[WARM] = mode[WARM], 0
        noise = self.groups.problem.C * self.groups.size  # of the sample's gradient: twice the decrement that it makes
        if warm and (near | (state["decrement"] <= noise)).all():
            mode[LEVEL], mode[TRIES] = len(state["fractions"]) - 1, 0
            return _again(state, self.groups)
        if not near.all() and mode[TRIES] < _MOST_TRIES:
            state["step"] = np.where(near, 0.0, state["step"])
            return _go(state, self.groups)
        smaller = [w for w in _WIDTHS if w < state["width"][0]]
        if self.groups.problem.loss == "hinge" and smaller and mode[LEVEL] == 0:
            state["width"] = np.full_like(state["width"], smaller[0])
        else:
            mode[LEVEL] += 1
        mode[FRESH], mode[TRIES] = 1, 0
        return _go(state, self.groups)

    def _judge(self, state: State, sums: Arrays, found: Bounds, accepted: Array) -> State:
        """Certify the present point from sums over all rows; stop, or choose what the next pass is about."""
        mode, problem = state["mode"], self.groups.problem
        mode[FULL] += 1
        before = state["decrement"].sum()
        self._certify(state, sums, found, accepted)
        if state["status"][3]:
            return state
        allowed = self.tol * abs(float(state["status"][0]))
        self._turn(state, accepted)
        if problem.loss == "hinge" and len(state["fractions"]) == 1:
            return self._begun(state)
        near = state["decrement"].sum() <= allowed * state["share"][0]
        if not mode[WIDE] and near and 4 * state["rounding"].sum() > allowed:
            mode[WIDE] = 1
            return _again(state, self.groups)
        state["status"][5] = state["decrement"].sum() + state["slack"].sum()
        if state["step"].min() < _LEAST_STEP:
            return self._stuck(state)
        if mode[EXACT]:
            mode[TRIES] += not accepted.all()
            if problem.loss == "squared_hinge" and mode[TRIES] > _MOST_TRIES:
                return self._interior(state)
            state["step"] = np.where(_gaps(state) <= 0.1 * self.tol * np.abs(state["primal"]), 0.0, state["step"])
            return _go(state, self.groups)
        room = allowed - state["slack"].sum()
        hopeless = mode[FULL] > 1 and state["decrement"].sum() > before / 3.0
        if problem.loss == "hinge" and (room < 0.5 * allowed or (accepted.all() and hopeless)):
            return self._narrow(state, allowed, hopeless)
        if accepted.all() and problem.loss != "multinomial" and state["decrement"].sum() <= room * state["share"][0]:
            return self._start_polish(state, sums)
        mode[EXACT] = accepted.all() and hopeless
        return _go(state, self.groups)

    def _begun(self, state: State) -> State:
        """Hand over where squares do best: at zero weights all rows are in the quadratic part of a hinge so wide."""
        state = _go(state, self.groups)
        state["base"], state["base_intercept"] = state["trial"], state["trial_intercept"]
        return self._interior(state)

    def _narrow(self, state: State, allowed: float, hopeless: bool) -> State:
        """Narrow the smoothing, whose cost falls with its square; where that would leave few rows: the exact hinge."""
        factor = np.clip(np.sqrt(0.2 * allowed / max(state["slack"].sum(), 1e-300)), 0.1, 0.7)
        width = factor * state["width"]
        if hopeless or width.min() < _LEAST_WIDTH:
            return self._interior(state)
        state["width"], state["decrement"] = width, np.full_like(state["decrement"], np.inf)
        state["mode"][FRESH] = 1
        return _go(state, self.groups)

    def _certify(self, state: State, sums: Arrays, found: Bounds, accepted: Array) -> None:
        """Take over bounds and the base point as the model to report."""
        state["lower"] = np.fmax(state["lower"], found.dual - found.rounding)
        state["primal"] = np.where(accepted, found.primal, state["primal"])
        state["rounding"] = np.where(accepted, found.rounding, state["rounding"])
        if self.groups.problem.loss == "hinge":
            signed = (sums["a"][1] - sums["a"][0]) * state["trial_intercept"]
            margins = np.einsum("sjk,jk->k", sums["v"], state["trial"]) + signed
            slack = np.maximum((sums["loss"] - sums["a"]).sum(axis=0) + margins, 0.0)
            state["slack"] = np.where(accepted, slack, state["slack"])
        state["coef"], state["intercept"] = state["base"], state["base_intercept"]
        self._conclude(state)

    def _conclude(self, state: State) -> None:
        """Write objective, gap and the verdict into the status; an objective >= 0 that is all rounding is optimal."""
        objective, gap = float(state["primal"].sum()), float(_gaps(state).sum())
        nothing = bool(state["mode"][WIDE]) and objective <= float(state["rounding"].sum())
        converged = reached(gap, objective, self.tol) or nothing
        done = converged or state["mode"][FULL] >= self.max_iter
        state["status"] = status(objective, gap, state["status"][2], done, converged, state["status"][5])

    def _stuck(self, state: State) -> State:
        """No step along the direction helps: better arithmetic, then a better Hessian, then this is all there is."""
        mode = state["mode"]
        if not mode[WIDE]:
            mode[WIDE] = 1
        elif self.groups.problem.loss in ("hinge", "squared_hinge"):
            return self._interior(state)
        elif not mode[EXACT]:
            mode[EXACT] = 1
        else:
            state["status"][3] = 1.0
            return state
        return _again(state, self.groups)

    def _start_polish(self, state: State, sums: Arrays) -> State:
        """Go to the sample: its dual variables can be re-optimised at a small part of a pass's price."""
        state["mode"][PHASE], state["mode"][TRIES] = POLISH, 0
        state |= {f"full_{name}": sums[name].copy() for name in PARTS}
        return self._aim_polish(state, state["base"], state["base_intercept"], state["grad"])

    def _aim_polish(self, state: State, coef: Array, intercept: Array, gradient: Array) -> State:
        everyone = np.ones(self.groups.n_groups, bool)
        move = self.groups.unpack(self.groups.aim(state["hess"], 1.0, gradient, everyone, not state["mode"][WIDE]))
        state["trial"], state["trial_intercept"] = coef + move[0], intercept + move[1]
        return state

    def _polished(self, state: State, sums: Arrays) -> State:
        """Bound the optimum with the sample's new dual variables; go on while that pays, else take the full step."""
        mode, problem = state["mode"], self.groups.problem
        base, point = (state["base"], state["base_intercept"]), (state["trial"], state["trial_intercept"])
        if mode[TRIES] == 0:
            state |= {f"before_{name}": sums[f"before_{name}"].copy() for name in PARTS}
        mode[TRIES] += 1
        full, before, after = _parts(state, "full_"), _parts(state, "before_"), _parts(sums, "")
        loss_a_v = [(p["loss"], p["v"], p["a"]) for p in (full, before, after)]
        conjugate = [conjugates(problem, *at, *p) for at, p in zip((base, base, point), loss_a_v, strict=True)]
        phi, slope = (conjugate[0][i] - conjugate[1][i] + conjugate[2][i] for i in (0, 1))
        total = {name: full[name] - before[name] + after[name] for name in PARTS}
        lower = dual(problem, total["v"], total["a"], phi, slope, total["curve"]) - 2 * state["rounding"]
        gained, gap = float(np.fmax(lower - state["lower"], 0.0).sum()), float(state["status"][1])
        state["lower"] = np.fmax(state["lower"], lower)
        self._conclude(state)
        if state["status"][3]:
            return state
        if mode[TRIES] == 1 or (mode[TRIES] < _MOST_TRIES and gained > 0.3 * gap):
            pull = self.groups.pack(total["v"].sum(axis=0), total["a"][1] - total["a"][0])
            return self._aim_polish(state, *point, self.groups.ridge() * self.groups.pack(*point) - pull)
        mode[PHASE] = NEWTON
        return _go(state, self.groups)

    def _settled(self, state: State, sums: Arrays) -> State:
        """Certify the point that the interior step led to, keep the best one, and aim for the next target."""
        mode, groups = state["mode"], self.groups
        mode[FULL] += 1
        base = state["base"], state["base_intercept"]
        found = bounds(groups.problem, *base, sums)
        better = found.primal < state["primal"]
        state["coef"] = np.where(better, base[0], state["coef"])
        state["intercept"] = np.where(better, base[1] + state["middle"], state["intercept"])
        state["primal"] = np.where(better, found.primal, state["primal"])
        state["rounding"] = np.where(better, found.rounding, state["rounding"])
        state["lower"] = np.fmax(state["lower"], found.dual - found.rounding)
        self._conclude(state)
        if state["status"][3]:
            return state
        pull = groups.pack(sums["v"].sum(axis=0) + sums["pull"], sums["a"][1] - sums["a"][0] + sums["pull_a"])
        state["open"] = (_gaps(state) > 0.1 * self.tol * np.abs(state["primal"])).astype(np.float64)
        state["grad"], state["hess"] = groups.ridge() * groups.pack(*base) - pull, sums["hess"].copy()
        state["products"] = sums["products"].copy()
        mode[PHASE], mode[FRESH] = PREDICT, 0
        mode[FINE] = mode[FINE] or groups.coarse(state["hess"], state["open"] > 0)
        return self._aim_interior(state, state["grad"])

    def _interior(self, state: State) -> State:
        """Hand over; what the last Hessian of the smoothed loss says of float32 holds for those that come."""
        state["mode"][FINE] = self.groups.coarse(state["hess"] / state["share"][0], np.ones(self.groups.n_groups))
        return interior(state)

    def _aim_interior(self, state: State, gradient: Array) -> State:
        state["direction"] = self.groups.aim(state["hess"], 1.0, gradient, state["open"] > 0, single=False)
        return state

    def _predicted(self, state: State, sums: Arrays) -> State:
        """Choose the target by how far the prediction leads, and correct the direction to second order.

        A target far below what the certificate asks for would only cost the next equations their digits.
        """
        enough = 0.01 * self.tol * np.abs(state["primal"]) / np.maximum(state["products"], 1.0)
        mu = np.maximum(next_mu(longest(sums["stopped"]), sums["product"], state["products"]), enough)
        pull, pull_a = mu * sums["pull_mu"] + sums["pull_second"], mu * sums["pull_mu_a"] + sums["pull_second_a"]
        state["mu"], state["mode"][PHASE] = mu, PROBE
        return self._aim_interior(state, state["grad"] - self.groups.pack(pull, pull_a))

    def _probed(self, state: State, sums: Arrays) -> State:
        """Go as far as no row forbids."""
        step = longest(sums["stopped"]) * state["open"]
        state["step"] = step
        coef, intercept = self.groups.unpack(step[:, None] * state["direction"])
        state["base"], state["base_intercept"] = state["base"] + coef, state["base_intercept"] + intercept
        state["mode"][PHASE] = SETTLE
        return state


def _parts(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name: arrays[prefix + name] for name in PARTS}
