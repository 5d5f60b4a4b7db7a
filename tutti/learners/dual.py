"""Dual coordinate ascent for linear models: one variable per row and output, w kept as their weighted sum.

A shard sends the change of w that its rows would like; only the shard knows its dual variables.  The intercept is
moved by the same coordinate steps, held by a proximal term 1/2 |b - centre|^2 / t^2 whose centre follows b: a constant
column of value 1 would swing for tens of epochs, this one does not, and its fixed point is the exact optimum.

Source: Hsieh et al. (2008); Yu, Huang, Lin (2011); Shalev-Shwartz, Zhang (2013), "Stochastic dual coordinate ascent";
Ma et al. (2015), "Adding vs. averaging in distributed primal-dual optimization".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.learners import _dual_shard as shard_state
from tutti.learners._certificate import penalty, reached
from tutti.learners._dual_serving import ServedDual
from tutti.learners._problem import LinearProblem, progress_of, status
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Cost, Kind, Order, Progress, Proposal, Schema, Update

SETTLING = 20.0  # t^2 in units of 1 / sum_i h_i: larger and b shakes the rows, smaller and it takes epochs to settle
PATIENCE = 8  # epochs without a certificate
MOST_DRIFT = 1.2  # an epoch, of what the guess of the gap is short by
OBJECTIVE, PASSES, ESTIMATE = 0, 2, 5  # in the status


@dataclass(frozen=True)
class DualCoordinateDescent(Spec):
    """Dual coordinate ascent for hinge, squared hinge, logistic (one against the rest) and squared loss.

        max_a  - sum_i C_i l*(-a_i / C_i) - 1/2 |w|^2 - R*(sum_i y_i a_i),     w = sum_i a_i y_i x_i

    Parameters
    ----------
    problem : what is minimised.
    tol : stop when the certified duality gap <= tol * |objective|.
    max_iter : epochs after which it stops in any case.

    Weights and dual variables are float32 where X is float32 and tol >= 1e-4, else float64; certificates are summed
    in float64 always.

    Example
    -------
    >>> sorted(DualCoordinateDescent(LinearProblem("hinge")).offers)
    ['dual', 'summary']
    """

    problem: LinearProblem = field(default_factory=LinearProblem)
    tol: float = 1e-4
    max_iter: int = 1000

    def __post_init__(self) -> None:
        if self.problem.loss == "epsilon_insensitive":
            raise ParameterError("loss", self.problem.loss, "dual coordinate ascent does not minimise it: use newton")
        if self.problem.loss == "multinomial":
            raise ParameterError(
                "loss", "multinomial", "dual coordinate ascent takes one class against the rest: write 'logistic'"
            )
        if not (math.isfinite(self.problem.C) and self.problem.C > 0):
            raise ParameterError("C", self.problem.C, "the dual needs a penalty: write a finite C > 0")
        if not self.tol > 0:
            raise ParameterError("tol", self.tol, "write a number > 0, such as 1e-4")
        if self.max_iter < 1:
            raise ParameterError("max_iter", self.max_iter, "write at least 1 epoch")

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"dual", "summary"})

    def merge_share(self, shared: Arrays) -> float:
        """Let the hinge merge more often: its rows jump from bound to bound, and shards that do not hear of it follow.

        Measured at 25 million values in 100,000 features: 0.1 is fastest for the smooth losses, 0.25 for the hinge.
        While few rows are visited fewer merges do, until certificates find gaps that no shard has met: then the shards
        pull against each other, and only merging ends that.
        """
        if self.problem.loss != "hinge":
            return 0.1
        return 0.25 * float(min(max(shared["busy"][0] * max(shared["guess"][5], 1.0), 0.05), 1.0))

    def dtype(self, schema: Schema) -> np.dtype[Any]:
        """Return the type of weights and dual variables."""
        return np.dtype(np.float32 if schema.dtype == "float32" and self.tol >= 1e-4 else np.float64)

    def prepare(self, schema: Schema) -> None:
        """Compile (or load) the kernels for this kind of data."""
        shard_state.compile_kernels(self.problem, schema, self.dtype(schema))

    def cost(self, schema: Schema) -> Cost:
        """Expect some ten epochs; a shard keeps two duals and a norm per row, a copy of w and scaled values."""
        n_outputs, size = self.problem.n_outputs(schema), self.dtype(schema).itemsize
        weights = size * schema.n_features * n_outputs
        rows = size * (schema.n_rows * (2 * n_outputs + 1) + schema.n_values * schema.sparse) // 8
        return Cost(update_bytes=weights, private_bytes=weights + rows, passes=10.0, rounds=330, flops_per_value=4.0)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        """Return the shared state at w = 0; a ``start`` has no dual variables and only its intercept is used.

        ``coef`` (d, K), ``intercept`` (K,): the best certified point.  ``w``, ``b``: the moving one.  ``mean``,
        ``mean_b``: its average over the merges of an epoch, the later the heavier, ``weight`` (1,) in all; it is what
        certificates judge, for it lies nearer to the optimum.  ``a`` (2, K): sums of the dual variables by side.
        ``centre`` (K,), ``proximity`` (1,): the proximal term of the intercept.
        """
        d, k = schema.n_features, self.problem.n_outputs(schema)
        b = np.zeros(k)
        if start is not None and self.problem.intercept != "none":
            b[:] = start["intercept"]
        return {
            "coef": np.zeros((d, k)),
            "intercept": b.copy(),
            "w": np.zeros((d, k), self.dtype(schema)),
            "b": b,
            "mean": np.zeros((d, k), self.dtype(schema)),
            "mean_b": b.copy(),
            "weight": np.zeros(1),
            "a": np.zeros((2, k)),
            "centre": b.copy(),
            "proximity": np.zeros(1),
            "primal": np.full(k, np.inf),
            "dual": np.full(k, -np.inf),
            "epoch": np.zeros(5),  # gaps and losses met, rows covered and visited, their h_i
            "guess": np.array([0.0, math.inf, 0.0, 0.0, math.inf, 1.5, 1.0]),  # see _close_epoch
            "busy": np.ones(1),  # rows visited in the last epoch, of those covered
            "n_rows": np.array([float(max(schema.n_rows, 1))]),
            "status": status(),
        }

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        """Return dual variables 0 and the squared norms of the rows, which are checked on the way."""
        return shard_state.adopt(self.problem, schema, self.dtype(schema), data)

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Return a local epoch (part) of the shard ("dual"), or the sums of a certificate ("summary")."""
        if order.kind == "summary":
            return shard_state.summary(self.problem, shared, private, data, order)
        kappa = _stiffness(self.problem, shared) * order.hints.get("n_shards", 1.0)
        return shard_state.local_epoch(self.problem, shared, private, data, order, kappa)

    def line_search(self, shared: Arrays, merged: Update) -> Array:
        """Return how far to go along a merged change, 0 <= eta <= 1 for each output.

        The dual is at least  -(1 - eta) Phi_old - eta Phi_new - 1/2 |w + eta dw|^2 - ... (convexity of Phi; for the
        hinge this is the dual itself); its maximiser never lets the dual fall.
        """
        rise, (minus, plus) = merged.arrays["rise"].astype(np.float64), merged.arrays["a"].astype(np.float64)
        kernels = shard_state.kernels()
        moved = kernels.squares(shard_state.read_only(merged.arrays["dw"]))
        curvature = moved + _stiffness(self.problem, shared) * (plus - minus) ** 2
        eta: Array = np.clip(rise / np.where(curvature > 0, curvature, 1.0), 0.0, 1.0)
        return eta

    def apply(self, shared: Arrays, merged: Update, scale: Any) -> Arrays:
        """Move w, b and the sums of the dual variables, or judge the point; ``scale`` is a number or one per output."""
        if merged.kind == "summary":
            return self._judge(shared, merged)
        eta = np.broadcast_to(np.asarray(scale, np.float64), len(shared["b"]))
        shared["epoch"] += merged.arrays["seen"]
        so_far = float(shared["epoch"][2])
        shared["weight"] += so_far
        share = so_far / float(shared["weight"][0]) if so_far > 0 else 1.0
        dw, eta = shard_state.read_only(merged.arrays["dw"]), shard_state.read_only(np.ascontiguousarray(eta))
        shard_state.kernels().advance(shared["w"], dw, eta, shared["mean"], share)
        shared["a"] += eta * merged.arrays["a"]
        covered, visited = (merged.arrays["seen"][2:4] / shared["n_rows"]).tolist()
        self._move_intercept(shared, covered)
        shared["mean_b"] += share * (shared["b"] - shared["mean_b"])
        shared["status"][PASSES] += visited
        if shared["epoch"][2] >= 0.999999 * shared["n_rows"][0]:
            self._close_epoch(shared)
        return shared

    def commit(self, private: Any, proposal: Proposal, scale: Any) -> Any:
        """Move the dual variables of the rows that were visited; ``scale`` is a number or one per output."""
        if proposal.update.kind == "dual":
            shard_state.keep(private, proposal.private, scale)
        return private

    def progress(self, shared: Arrays) -> Progress:
        """Return how far the certified point is from the optimum."""
        return progress_of(shared)

    def due(self, shared: Arrays) -> bool:
        """Tell, at the end of an epoch, whether to make a certificate: it may pass, or it is time for one."""
        estimate = shared["status"][ESTIMATE]
        _, objective, since, epochs, _, _, _ = shared["guess"]
        late = epochs >= self.max_iter or since >= PATIENCE
        return bool(late or estimate <= self.tol * abs(objective))

    def served(self, whole: bool) -> ServedDual:
        """Return the form in which a parameter server moves it; see `tutti.serving.Servable`."""
        return ServedDual(self, whole)

    def stiffness(self, shared: Arrays) -> float:
        """Return kappa: how far b moves when sum_i y_i a_i grows by one."""
        return _stiffness(self.problem, shared)

    def close(self, shared: Arrays) -> None:
        """End an epoch of which some rows were left out."""
        if shared["epoch"][2] > 0:
            self._close_epoch(shared)

    def _move_intercept(self, shared: Arrays, fraction: float) -> None:
        """Follow b = kappa (sum_i y_i a_i + centre / t^2) and draw the centre towards it."""
        if self.problem.intercept == "none":
            return
        a, b, centre, proximity = shared["a"][1] - shared["a"][0], shared["b"], shared["centre"], shared["proximity"]
        if proximity[0] == 0.0:
            _, _, _, rows, responses = shared["epoch"]
            proximity[0] = SETTLING * rows / max(responses * shared["n_rows"][0], 1e-300)
            centre[:] = proximity[0] * (b / _stiffness(self.problem, shared) - a)
            return
        kappa = _stiffness(self.problem, shared)
        b[:] = kappa * (a + centre / proximity[0])
        centre += min(fraction, 1.0) * (b - centre)
        b[:] = kappa * (a + centre / proximity[0])

    def _close_epoch(self, shared: Arrays) -> None:
        """Guess the gap from the gaps met on the way: they fell during the epoch, and go on falling as they did.

        "guess" holds: gaps met in the last epoch, objective, epochs since the last certificate and in all, the guess,
        what certificates have found it to be short by, and by what factor an epoch that has grown.
        """
        gap, loss, covered, visited, _ = shared["epoch"]
        guess = shared["guess"]
        last = guess[0]
        guess[0] = gap
        guess[4] = gap * min(1.0, gap / last) if last > 0 else gap
        guess[5] *= guess[6]
        shared["status"][ESTIMATE] = guess[4] * guess[5]
        if not math.isfinite(shared["status"][OBJECTIVE]):
            loss *= covered / max(visited, 1.0)
            guess[1] = loss + penalty(self.problem, shared["w"].astype(np.float64), shared["b"]).sum()
        guess[2:4] += 1
        shared["busy"][:] = visited / max(covered, 1.0)
        shared["epoch"][:] = 0.0
        shared["weight"][:] = 0.0

    def _judge(self, shared: Arrays, merged: Update) -> Arrays:
        w, b = shared["mean"].astype(np.float64), shared["mean_b"]
        found = shard_state.judge(self.problem, w, b, merged.arrays)
        better = found.primal < shared["primal"]
        shared["coef"][:, better] = w[:, better]
        shared["intercept"][better] = b[better]
        shared["primal"][better] = found.primal[better]
        np.maximum(shared["dual"], found.dual, out=shared["dual"])
        gap = float((np.maximum(shared["primal"] - shared["dual"], 0.0) + 2.0 * found.rounding).sum())
        objective, passes = float(shared["primal"].sum()), shared["status"][PASSES]
        converged = reached(gap, objective, self.tol)
        done = converged or shared["guess"][3] >= self.max_iter
        shared["status"][:] = status(objective, gap, passes, done, converged, gap)
        shared["w"][:] = merged.arrays["v"].sum(axis=0)  # what the dual variables make it, without rounding on the way
        shared["a"][:] = merged.arrays["a"]
        guess, since = shared["guess"], float(shared["guess"][2])
        guess[1:3] = objective, 0.0
        if 0 < guess[4] < math.inf and since > 0:
            short = min(max(gap / guess[4], 0.5), 4.0)
            guess[5:7] = short, min(max(guess[6] * (short / guess[5]) ** (1.0 / since), 1.0), MOST_DRIFT)
        return shared


def _stiffness(problem: LinearProblem, shared: Arrays) -> float:
    """Return kappa: how far b moves when sum_i y_i a_i grows by one."""
    t2 = float(shared["proximity"][0])
    if problem.intercept == "none":
        return 0.0
    if problem.intercept == "free":
        return t2
    s2 = problem.intercept_scaling**2
    return t2 * s2 / (t2 + s2)
