"""Stochastic gradient steps on the sum of losses: the plain baseline, with the same bits for any number of workers.

A step takes the same share of every shard's rows, in an order drawn per (seed, shard, epoch); each epoch ends with a
pass over all rows that certifies the average of the iterates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.learners._certificate import Bounds, bounds, reached
from tutti.learners._finite import check_finite
from tutti.learners._margins import Request, Rows, all_rows, arithmetic, collect, precision_of, warm_up
from tutti.learners._problem import LinearProblem, progress_of, status
from tutti.protocols import ShardData
from tutti.seeds import generator
from tutti.types import Array, Arrays, Cost, Csr, Kind, Order, Progress, Proposal, Schema, Update

if TYPE_CHECKING:
    from tutti.learners._sgd_serving import ServedSGD

_CHUNK = 16  # neighbouring rows that are drawn together: a row alone would waste most of a page
_PROBE_ROWS = 4096
_CURVATURE = {"logistic": 0.25, "squared_hinge": 2.0, "hinge": 1.0, "squared": 1.0}

PROBE, STEP, JUDGE = range(3)


@dataclass(frozen=True)
class SGD(Spec):
    """Mini-batch SGD on P / sum_i C_i, averaged over the later half of the steps (Polyak).

    w <- w - eta_t (w / N - sum_B C_i l'(m_i) y_i x_i / N_B),   eta_t = eta / (1 + eta t / N)^(3/4),  N = sum_i C_i

    Slow to a tight certificate by nature: for strategies that ask for gradients of mini-batches, or as a yardstick.
    Under a strategy of local steps every shard goes on from its own w, N_B being its own rows of the step.  Under a
    parameter server see `ServedSGD`; the average of the iterates is certified there, too.

    Parameters
    ----------
    problem : what is minimised; logistic, hinge, squared hinge or squared.
    tol : stop when the certified gap is at most tol times the objective.
    max_iter : most epochs.
    batch_size : rows of a step over all shards.
    learning_rate : eta; None: 1 / (curvature of the loss * mean |x|^2), measured on the first rows of every shard.
    average : False to judge the last iterate instead of the average.

    Source: Bottou (2010), "Large-scale machine learning with stochastic gradient descent"; Polyak, Juditsky (1992).
    """

    problem: LinearProblem = field(default_factory=LinearProblem)
    tol: float = 1e-4
    max_iter: int = 50
    batch_size: int = 1024
    learning_rate: float | None = None
    average: bool = True

    def __post_init__(self) -> None:
        if self.problem.loss not in _CURVATURE:
            raise ParameterError("problem.loss", self.problem.loss, f"SGD minimises {', '.join(_CURVATURE)}")
        if self.batch_size < 1:
            raise ParameterError("batch_size", self.batch_size, "write at least 1")

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient", "delta"})

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels for this kind of data."""
        warm_up(self.problem, schema, arithmetic(self.problem, schema, self.tol))
        if schema.sparse:
            from tutti.learners._touched import warm_up as warm_up_touched

            warm_up_touched(schema)

    def cost(self, schema: Schema) -> Cost:
        steps = self._steps(schema.n_rows)
        size = 8 * schema.n_features * self.problem.n_outputs(schema)
        return Cost(update_bytes=2 * size, passes=2.0 * self.max_iter, rounds=self.max_iter * (steps + 1))

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        shape = schema.n_features, self.problem.n_outputs(schema)
        coef = np.zeros(shape) if start is None else np.array(start["coef"], np.float64)
        intercept = np.zeros(shape[1]) if start is None else np.array(start["intercept"], np.float64)
        return {
            "coef": coef,
            "intercept": intercept,
            "w": coef.copy(),
            "b": intercept.copy(),
            "mean_w": coef.copy(),
            "mean_b": intercept.copy(),
            "best": np.array([np.full(shape[1], math.inf), np.full(shape[1], -math.inf)]),
            "rate": np.zeros(2),  # eta, N
            "at": np.array([PROBE, 0, 0, 0]),  # what to do, step of the epoch, epoch, steps averaged
            "wide": np.array([arithmetic(self.problem, schema, self.tol) == np.float64]),
            "n_rows": np.array([schema.n_rows]),
            "status": status(),
        }

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Measure the rows (first round), sum a mini-batch or take own steps, or sum all rows at the average."""
        what, step, epoch, _ = shared["at"].tolist()
        measured: Kind = "summary" if order.kind == "delta" else "gradient"
        if what == PROBE:
            return Proposal(Update(measured, self._probe(data)))
        real = np.float64 if shared["wide"][0] else np.float32
        if what == JUDGE:
            request = Request(constants=self.problem.loss == "squared")
            sums = collect(self.problem, data, all_rows(data), self._candidate(shared), real, request)
            return Proposal(Update(measured, sums))
        if order.kind == "delta":
            matrix = 0, len(shared["w"]), shared["w"].shape[1]
            return Proposal(Update("delta", self._own_steps(shared, data, order), {"delta": (matrix,)}))
        steps = self._steps(int(shared["n_rows"][0]))
        rows = batch(data, order.seed, epoch, step, steps)
        sums = collect(self.problem, data, rows, (shared["w"], shared["b"]), real)
        n = float(sum(r.n_rows for r in rows))
        shape = sums["v"].shape
        each, d, k = (1, *shape)[-3:]
        lossy = {"v": tuple((i * d * k, d, k) for i in range(each))}
        return Proposal(Update("gradient", {"v": sums["v"], "a": sums["a"], "n": np.array([n])}, lossy))

    def whole(self) -> SGD:
        """Return this learner: all that it tells is in its updates; only those of mini-batches may be less exact."""
        return self

    def served(self, whole: bool) -> ServedSGD:
        """Return the form of this learner whose weights are moved by pushes as they come."""
        from tutti.learners._sgd_serving import ServedSGD

        return ServedSGD(self, whole)

    def traffic(self, shared: Arrays) -> tuple[int, int]:
        """Return the bytes of one shard's update, and none besides."""
        return 2 * int(shared["w"].nbytes), 0

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Move on: set the rate, take a step, or judge the epoch."""
        what = int(shared["at"][0])
        if what == PROBE:
            return self._begin(shared, merged.arrays)
        if what == JUDGE:
            return self._judge(shared, merged.arrays)
        return self._joined(shared, merged.arrays) if merged.kind == "delta" else self._step(shared, merged.arrays)

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        return progress_of(shared)

    def _steps(self, n_rows: int) -> int:
        return max(round(n_rows / self.batch_size), 1)

    def _candidate(self, shared: Arrays) -> tuple[Array, Array]:
        return (shared["mean_w"], shared["mean_b"]) if self.average else (shared["w"], shared["b"])

    def _probe(self, data: ShardData) -> dict[str, Array]:
        square, n, weight = 0.0, 0, 0.0
        for i in range(len(data.bounds)):
            block = data.block(i)
            weight += float(self.problem.row_weights(block).sum())
            if i == 0:
                n = min(len(block.y), _PROBE_ROWS)
                x = block.x.values[: block.x.indptr[n]] if isinstance(block.x, Csr) else block.x[:n]
                square = float(np.square(x, dtype=np.float64).sum())
                check_finite(square, block.x, block.start, data)
        return {"probe": np.array([square, float(n), weight])}

    def _begin(self, shared: Arrays, sums: Arrays) -> Arrays:
        square, n, weight = sums["probe"].tolist()
        has_intercept = self.problem.intercept != "none"
        bound = _CURVATURE[self.problem.loss] * (square / max(n, 1.0) + has_intercept)
        rate = self.learning_rate if self.learning_rate is not None else 1.0 / max(bound, 1e-300)
        return {**shared, "rate": np.array([rate, max(weight, 1e-300)]), "at": np.array([STEP, 0, 0, 0])}

    def _step(self, shared: Arrays, sums: Arrays) -> Arrays:
        return self._taken(shared, *self._moved(shared, (shared["w"], shared["b"]), sums, float(sums["n"][0])), 1)

    def _own_steps(self, shared: Arrays, data: ShardData, order: Order) -> dict[str, Array]:
        """Return how far the shard's own steps to the next merge go, times their rows."""
        _, step, epoch, _ = shared["at"].tolist()
        steps, n_all = self._steps(int(shared["n_rows"][0])), 0.0
        ahead = min(int(order.hints.get("local_steps", 1)), steps - step)
        real = np.float64 if shared["wide"][0] else np.float32
        point = shared["w"], shared["b"]
        for i in range(ahead):
            rows = batch(data, order.seed, epoch, step + i, steps)
            n = float(sum(r.n_rows for r in rows))
            if n:
                point = self._moved(shared, point, collect(self.problem, data, rows, point, real), n, i)
                n_all += n
        went = np.concatenate([(shared["w"] - point[0]).ravel(), shared["b"] - point[1]])
        return {"delta": n_all * went, "weight": np.array([n_all]), "steps": np.array([n_all * ahead])}

    def _joined(self, shared: Arrays, sums: Arrays) -> Arrays:
        """Move the model by the mean of the shards' changes."""
        weight, w = max(float(sums["weight"][0]), 1e-300), shared["w"]
        went = sums["delta"] / weight
        steps = max(round(float(sums["steps"][0]) / weight), 1)
        return self._taken(shared, w - went[: w.size].reshape(w.shape), shared["b"] - went[w.size :], steps)

    def _moved(
        self, shared: Arrays, point: tuple[Array, Array], sums: Arrays, n: float, ahead: int = 0
    ) -> tuple[Array, Array]:
        """Return (w, b) after a step from ``point`` along the sums over ``n`` rows, ``ahead`` steps after the state."""
        _, step, epoch, _ = shared["at"].tolist()
        total = float(shared["rate"][1])
        n_rows, steps = float(shared["n_rows"][0]), self._steps(int(shared["n_rows"][0]))
        eta = self._eta(shared, epoch * steps + step + ahead)
        share = n_rows / max(n, 1.0)
        v, a = along(sums)
        w, b = point
        if self.problem.intercept != "none":
            pull = b / self.problem.intercept_scaling**2 if self.problem.intercept == "regularised" else 0.0
            b = b - eta / total * (pull - share * a)
        return w - eta / total * ((w if math.isfinite(self.problem.C) else 0.0) - share * v), b

    def _eta(self, shared: Arrays, done: Any) -> Any:
        """Return eta_t after ``done`` steps, a number or an array of them."""
        rate, total = shared["rate"].tolist()
        if math.isfinite(self.problem.C):
            return rate / (1.0 + rate * done / total) ** 0.75
        return rate / (1 + done / self._steps(int(shared["n_rows"][0]))) ** 0.5

    def _taken(self, shared: Arrays, w: Array, b: Array, n: int) -> Arrays:
        """Return the state after ``n`` steps, which led to (w, b)."""
        _, step, epoch, averaged = shared["at"].tolist()
        if step == 0 and epoch & (epoch + 1) == 0:
            averaged = 0  # epochs 0, 1, 3, 7, ...: forget the first half
        averaged += n
        mean_w = shared["mean_w"] + (w - shared["mean_w"]) * n / averaged
        mean_b = shared["mean_b"] + (b - shared["mean_b"]) * n / averaged
        ended = step + n >= self._steps(int(shared["n_rows"][0]))
        at = np.array([JUDGE if ended else STEP, step + n, epoch, averaged])
        return {**shared, "w": w, "b": b, "mean_w": mean_w, "mean_b": mean_b, "at": at}

    def _judge(self, shared: Arrays, sums: Arrays) -> Arrays:
        _, _, epoch, averaged = shared["at"].tolist()
        point = self._candidate(shared)
        found = self._bounds(shared, point, sums)
        best, dual = shared["best"]
        better = found.primal + found.rounding < best
        coef = np.where(better, point[0], shared["coef"])
        intercept = np.where(better, found.intercept, shared["intercept"])
        best = np.minimum(best, found.primal + found.rounding)
        dual = np.maximum(dual, found.dual - found.rounding)
        gap, objective = float((best - dual).sum()), float(best.sum())
        stop = reached(gap, objective, self.tol)
        over = epoch + 1 >= self.max_iter or not math.isfinite(objective)
        return {
            **shared,
            "coef": coef,
            "intercept": intercept,
            "best": np.array([best, dual]),
            "at": np.array([STEP, 0, epoch + 1, averaged]),
            "status": status(objective, gap, 2.0 * (epoch + 1), stop or over, stop),
        }

    def _bounds(self, shared: Arrays, point: tuple[Array, Array], sums: Arrays) -> Bounds:
        precision = precision_of(np.float64 if shared["wide"][0] else np.float32)
        if math.isfinite(self.problem.C):
            return bounds(self.problem, *point, sums, precision)
        loss = np.atleast_1d(sums["loss"].sum(axis=0))  # without a penalty there is no dual bound but zero
        return Bounds(loss, np.zeros_like(loss), precision * np.abs(loss), point[1])


def along(sums: Arrays) -> tuple[Array, Array]:
    """Return (v, a) over both sides of the rows: what weights and intercepts move along."""
    v = sums["v"].sum(axis=0) if sums["v"].ndim == 3 else sums["v"]
    return v, sums["a"][1] - sums["a"][0] if sums["a"].ndim == 2 else sums["a"]


def batch(data: ShardData, seed: int, epoch: int, step: int, steps: int) -> list[Rows]:
    """Return this step's share of the shard's chunks of rows, block after block in the epoch's order."""
    counts = [-(-(hi - lo) // _CHUNK) for lo, hi in data.bounds]
    total = sum(counts)
    lo, hi = total * step // steps, total * (step + 1) // steps
    draw = generator(seed, data.id, epoch, "sgd")
    found, at = [], 0
    for i in draw.permutation(len(counts)).tolist():
        chunks = draw.permutation(counts[i])
        mine = chunks[max(lo - at, 0) : max(hi - at, 0)]
        at += counts[i]
        if len(mine):
            found.append(Rows(data.block(i), np.sort(mine) * _CHUNK, _CHUNK))
    return found
