"""SGD whose weights are served: `tutti.serving.Serving` for `SGD`.

A push of part p of step t moves along the mean gradient of its own rows, at the part of the learning rate that its rows
are of a step's, so that the parts of a step go as far as one synchronous step:

    w <- w - eta_t s_p (w / N - sum_p C_i l'(m_i) y_i x_i / N_p),    eta_t <= N / 2

Sparse rows push the features that they touch alone; the others shrink by prod_t (1 - eta_t / N) when they are touched
next, and their sum over the steps is made up for then, too: averaging costs nothing where nothing moves.  Rows are
measured and judged at pauses, by the sums and the bounds of the synchronous learner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.learners._margins import Nowhere, Request, Rows, all_rows, collect
from tutti.learners._touched import Renumber
from tutti.learners.sgd import JUDGE, PROBE, SGD, STEP, along, batch
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Cost, Kind, Order, Progress, Proposal, Push, Schema, Update

_WHAT, _STEP, _EPOCH, _AVERAGED = range(4)  # of "at"
_LINE = 8  # features to a cache line, where there is one output
_FEWEST = 1e-280  # what has shrunk to less counts as nothing


class State(dict[str, Array]):
    """The shared arrays, and what one rank keeps beside them.

    Parameters
    ----------
    lazy : the rows are sparse, and features shrink when they are touched.
    """

    def __init__(self, arrays: Arrays, lazy: bool) -> None:
        super().__init__(arrays)
        self.lazy = lazy
        self.ranges: list[tuple[int, int]] = []
        self.renumber: Renumber | None = None
        self.epoch = -1
        self.tables: tuple[Array, Array, Array] = (np.empty(0), np.empty(0), np.empty(0))

    def views(self) -> State:
        """Have "w" and "b" where the keys are."""
        d, k = self["coef"].shape
        self["w"], self["b"] = self["keys"][: d * k].reshape(d, k), self["keys"][d * k :]
        return self


class ServedSGD:
    """What `SGD.served` returns.

    Parameters
    ----------
    sgd : the learner.
    whole : push the gradient of every weight, whatever the rows touch, and judge the last iterate, not an average: for
        servers that move weights by rules of their own.
    """

    def __init__(self, sgd: SGD, whole: bool = False) -> None:
        self.sgd, self.problem, self._whole = sgd, sgd.problem, whole
        self._average = sgd.average and not whole

    @property
    def offers(self) -> frozenset[Kind]:
        return self.sgd.offers

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels."""
        self.sgd.prepare(schema)

    def cost(self, schema: Schema) -> Cost:
        return self.sgd.cost(schema)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> State:
        plain = self.sgd.init(schema, seed=seed, start=start)
        names = ("coef", "intercept", "best", "rate", "at", "wide", "n_rows", "status")
        state = State({name: plain[name] for name in names}, schema.sparse and not self._whole)
        state["keys"] = np.concatenate([plain["w"].ravel(), plain["b"]])
        state["total"] = np.zeros(len(state["keys"]) if self._average else 0)
        state["moved"] = np.zeros(len(plain["w"]) if state.lazy else 0, np.int64)
        if start is not None and "at" in start:
            state.update({name: np.array(start[name]) for name in state})
        return state.views()

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        return self.sgd.progress(shared)

    # at pauses

    def due(self, shared: Arrays) -> bool:
        """Tell whether the rows have to be measured or judged."""
        return bool(shared["at"][_WHAT] != STEP)

    def tells(self, shared: Arrays) -> bool:
        """Tell whether an epoch was judged just now."""
        return not self.due(shared) and bool(shared["at"][_STEP] == 0 and shared["at"][_EPOCH] > 0)

    def milestone(self, shared: Arrays) -> tuple[int, bool]:
        """Return (steps done, False): the best weights are kept in any case."""
        _, step, epoch, _ = shared["at"].tolist()
        return epoch * self._steps(shared) + step, False

    def snapshot(self, shared: Arrays) -> Arrays:
        """Return all that `init` goes on from."""
        return {name: array for name, array in shared.items() if name not in ("w", "b", "pushed")}

    def result(self, shared: Arrays) -> Arrays:
        """Return the arrays that the training leaves."""
        inner = {"keys", "pushed", "moved", "total"}
        return {name: np.array(array) for name, array in shared.items() if name not in inner}

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Measure the rows at the first pause, sum them at the end of an epoch; the arrays are always the same ones."""
        first = shared["at"][_WHAT] == PROBE
        request = Request(constants=self.problem.loss == "squared")
        rows = () if first else all_rows(data)
        sums = collect(self.problem, data, rows, self._candidate(shared), self._real(shared), request)
        probe = self.sgd._probe(data)["probe"] if first else np.zeros(3)
        return Proposal(Update("summary", {**sums, "probe": probe}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Set the rate, or judge the epoch; in place, what says that it is done last."""
        at = shared["at"]
        if at[_WHAT] == PROBE:
            found = self.sgd._begin(shared, merged.arrays)
            shared["rate"][:] = found["rate"]
            at[:] = found["at"]
            return shared
        w, b = self._candidate(shared)
        found = self.sgd._judge({**shared, "w": w, "b": b, "mean_w": w, "mean_b": b}, merged.arrays)
        for name in ("coef", "intercept", "best", "status"):
            shared[name][:] = found[name]
        now, epoch = found["at"], int(found["at"][_EPOCH])
        if epoch & (epoch + 1) == 0:  # as SGD does: forget the first half
            now[_AVERAGED] = 0
        at[:] = now
        shared["pushed"][0], shared["moved"][:] = 0, 0
        if not now[_AVERAGED]:
            shared["total"][:] = 0.0
        return shared

    # pushes

    def unservable(self) -> str | None:
        """Return None: it can always be served."""
        return None

    def ranges(self, shared: Arrays, n: int) -> list[tuple[int, int]]:
        """Cut at whole features; the intercept goes with the last ones."""
        d, k = shared["coef"].shape
        cuts = sorted({d * i // n // _LINE * _LINE * k for i in range(n)})
        return list(pairwise([*cuts, (d + 1) * k]))

    def serve(
        self,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        keys_in: Callable[[int], Array],
        sums_in: Callable[[int], Array],
        join: bool = False,
    ) -> State:
        """Move weights, sums and counts into memory that ranks share, or find them there."""
        old = _state(shared)
        state = State({}, old.lazy)
        state.ranges, state["pushed"] = list(ranges), np.zeros(1, np.int64)
        for name, array in [*old.items(), *state.items()]:
            if name not in ("w", "b"):
                where = keys_in if name in ("keys", "moved") else sums_in
                common = where(max(array.nbytes, 8)).view(array.dtype)[: array.size].reshape(array.shape)
                if not join:
                    common[...] = array
                state[name] = common
        if state.lazy:
            state.renumber = Renumber(len(state["coef"]))
        return state.views()

    def keys(self, shared: Arrays) -> Array:
        """Return the flat weights, the intercept behind them."""
        return shared["keys"]

    def work(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> Push:
        """Return the mean gradient of some shards' rows of the step."""
        step = next(iter(orders.values())).step
        steps, n_rows = self._steps(shared), float(shared["n_rows"][0])
        epoch, local = divmod(step, steps)
        rows = {s: batch(data[s], o.seed, epoch, local, steps) for s, o in orders.items()}
        n = sum(r.n_rows for found in rows.values() for r in found)
        if not n:
            return Push(step, 0.0, np.empty(0), empty=True)
        state, total = _state(shared), float(shared["rate"][1])
        w, (v, a), touched = self._sums(state, local, rows, data)
        scale = n_rows / n / total
        flat, slope = -scale * v, np.zeros(len(a))
        if touched is None and math.isfinite(self.problem.C):
            flat += w[0] / total
        if self.problem.intercept != "none":
            pull = w[1] / self.problem.intercept_scaling**2 if self.problem.intercept == "regularised" else 0.0
            slope = pull / total - scale * a
        return Push(step, n * steps / n_rows, np.concatenate([flat.ravel(), slope]), touched=touched)

    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None:
        """Move range ``i`` along a push."""
        state, (lo, hi) = _state(shared), _state(shared).ranges[i]
        d, k = state["coef"].shape
        local = push.step % self._steps(state)
        rates, decay, seen = self._tables(state)
        rate, touched = -float(rates[local]) * share, push.touched
        if touched is None:
            state["keys"][lo:hi] += rate * push.keys[lo:hi]
            return
        from tutti.learners._kernels.touched import move

        v = push.keys[: len(touched) * k].reshape(-1, k)
        arrays = state["w"], state["moved"], decay, self._total_of(state), seen
        move(*arrays, local + 1, lo // k, hi // k, touched, rate, v)
        if hi > d * k:
            state["b"] += rate * push.keys[len(touched) * k :]

    def tally(self, shared: Arrays, push: Push, parts: int) -> None:
        """Count a push, and the step that it completes."""
        shared["pushed"][0] += 1
        if shared["pushed"][0] % parts == 0 and shared["at"][_STEP] < self._steps(shared):
            self._advance(shared)

    def next_pause(self, shared: Arrays, every: int | None) -> int:
        """Return the end of the epoch or of the next steps to be kept; now, where nothing is measured yet."""
        step, steps = self.milestone(shared)[0], self._steps(shared)
        stops = [step if self.due(shared) else (step // steps + 1) * steps]
        return min([*stops, (step // every + 1) * every] if every else stops)

    def reached(self, shared: Arrays, step: int) -> None:
        """Have all weights shrunk as of this step, and the epoch judged if it is over."""
        if self.due(shared):
            return
        state, at, steps = _state(shared), shared["at"], self._steps(shared)
        local = step - int(at[_EPOCH]) * steps
        while at[_STEP] < local:  # a worker that is gone has left something out
            self._advance(shared)
        if state.lazy:
            from tutti.learners._kernels.touched import settle

            _, decay, seen = self._tables(state)
            settle(state["w"], state["moved"], decay, self._total_of(state), seen, local)
        if local == steps:
            if state.lazy and self._average:
                self._total_of(state)[:] += state["w"]
            at[_WHAT] = JUDGE

    # helpers

    def _steps(self, shared: Arrays) -> int:
        return self.sgd._steps(int(shared["n_rows"][0]))

    def _real(self, shared: Arrays) -> Any:
        return np.float64 if shared["wide"][0] else np.float32

    def _total_of(self, state: State) -> Array:
        """Return the sum over the steps of every weight, (d, K); of no rows where it is not kept."""
        d, k = state["coef"].shape
        return state["total"][: d * k].reshape(-1, k)

    def _candidate(self, shared: Arrays) -> tuple[Array, Array]:
        averaged = int(shared["at"][_AVERAGED])
        if not self._average or not averaged:
            return shared["w"], shared["b"]
        d, k = shared["coef"].shape
        mean = shared["total"] / averaged
        return mean[: d * k].reshape(d, k), mean[d * k :]

    def _advance(self, shared: Arrays) -> None:
        """A step is complete: have it in the average, but for weights that are made up for when they are touched."""
        if self._average:
            first = len(shared["keys"]) - len(shared["b"]) if _state(shared).lazy else 0
            shared["total"][first:] += shared["keys"][first:]
        shared["at"][_AVERAGED] += 1
        shared["at"][_STEP] += 1

    def _tables(self, state: State) -> tuple[Array, Array, Array]:
        """Return of this epoch, by step: learning rates, how far a weight has shrunk, and the sum of that after 0."""
        epoch, steps = int(state["at"][_EPOCH]), self._steps(state)
        if state.epoch != epoch:
            rates = np.atleast_1d(self.sgd._eta(state, epoch * steps + np.arange(steps)))
            decay = np.ones(steps + 1)
            if math.isfinite(self.problem.C):
                total = float(state["rate"][1])
                rates = np.minimum(rates, 0.5 * total)  # no step takes more than half of a weight away
                decay[1:] = np.maximum(np.cumprod(1.0 - rates / total), _FEWEST)
            seen = np.zeros(steps + 1)
            np.cumsum(decay[1:-1], out=seen[2:])
            state.tables, state.epoch = (rates, decay, seen), epoch
        return state.tables

    def _sums(
        self, state: State, local: int, rows: Mapping[int, list[Rows]], data: Mapping[int, ShardData]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array], Array | None]:
        """Return the weights that were pulled, (v, a) over the rows there, and which features they are of."""
        real, b = self._real(state), state["b"].copy()
        if state.renumber is None:
            w = state["w"].copy()
            found = [along(collect(self.problem, data[s], r, (w, b), real)) for s, r in rows.items() if r]
            v, a = (np.sum(sums, axis=0) for sums in zip(*found, strict=True))
            return (w, b), (v, a), None
        from tutti.learners._kernels.touched import fetch

        mine = state.renumber.batch([r for some in rows.values() for r in some])
        w = np.empty((len(mine.touched), len(b)))
        fetch(state["w"], state["moved"], self._tables(state)[1], local, mine.touched, w)
        try:
            sums = collect(self.problem, Nowhere(), [mine.rows], (w, b), real)
        except DataError:
            for s, some in rows.items():  # once more, where the value can be found
                collect(self.problem, data[s], some, (state["w"], b), real)
            raise
        return (w, b), along(sums), mine.touched


def _state(shared: Arrays) -> State:
    assert isinstance(shared, State)
    return shared
