"""SGD whose weights are served: `tutti.serving.Serving` for `SGD`.

A push of part p of step t moves along the mean gradient of its own rows, at the part of the learning rate that its rows
are of a step's, so that the parts of a step go as far as one synchronous step:

    w <- w - eta_t s_p (w / N - sum_p C_i l'(m_i) y_i x_i / N_p),    eta_t <= N / 2

Sparse rows push the features that they touch alone; the others shrink by prod_t (1 - eta_t / N) when they are touched
next, and their sum over the steps is made up for then, too: averaging costs nothing where nothing moves.  Each range
does all that for itself, from the steps of the pushes that come to it.  Rows are measured and judged at pauses, by the
sums and the bounds of the synchronous learner.
"""

from __future__ import annotations

import dataclasses
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
_BEGUN, _DONE, _MEAN_OF, _RATE = 0, 1, 2, slice(3, 5)  # of a row of "marks"
_LINE = 8  # features to a cache line, where there is one output
_FEWEST = 1e-280  # what has shrunk to less counts as nothing


class State(dict[str, Array]):
    """The shared arrays, and what one rank keeps beside them.

    Parameters
    ----------
    lazy : the rows are sparse, and features shrink when they are touched.

    A row of "marks" says of a range: its epoch, the steps of that which are in "total", the steps of all epochs that
    are in "total", and (eta, N) of its pushes.
    """

    def __init__(self, arrays: Arrays, lazy: bool) -> None:
        super().__init__(arrays)
        self.lazy = lazy
        self.ranges: list[tuple[int, int]] = []
        self.renumber: Renumber | None = None
        self.of: tuple[float, ...] = ()
        self.read: Arrays = self  # what `work` reads
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sgd!r}, whole={self._whole})"

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
        return {name: array for name, array in shared.items() if name not in ("w", "b", "pushed", "marks")}

    def result(self, shared: Arrays) -> Arrays:
        """Return the arrays that the training leaves."""
        inner = {"keys", "pushed", "moved", "total", "marks"}
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
        for i in range(len(shared["marks"])):
            self._begin(_state(shared), i, epoch)
        shared["pushed"][0] = 0
        at[:] = now
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
        _, done, epoch, averaged = old["at"].tolist()
        state["marks"] = np.array([[epoch, done, averaged, *old["rate"]]] * len(ranges))
        if not averaged:
            old["total"][:] = 0.0
        for name, array in [*old.items(), *state.items()]:
            if name not in ("w", "b"):
                where = keys_in if name in ("keys", "moved", "total", "marks") else sums_in
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
        w, (v, a), touched = self._sums(state, (epoch, local), rows, data)
        scale = n_rows / n / total
        flat, slope = -scale * v, np.zeros(len(a))
        if touched is None and math.isfinite(self.problem.C):
            flat += w[0] / total
        if self.problem.intercept != "none":
            pull = w[1] / self.problem.intercept_scaling**2 if self.problem.intercept == "regularised" else 0.0
            slope = pull / total - scale * a
        sums = {"rate": np.array(state["rate"])}
        return Push(step, n * steps / n_rows, np.concatenate([flat.ravel(), slope]), sums, touched=touched)

    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None:
        """Move range ``i`` along a push."""
        state, (lo, hi) = _state(shared), _state(shared).ranges[i]
        d, k = state["coef"].shape
        epoch, local = divmod(push.step, self._steps(state))
        state["marks"][i, _RATE] = push.sums["rate"]
        self._begin(state, i, epoch)
        self._include(state, i, local + 1)
        rates, decay, seen = self._tables(state, epoch, push.sums["rate"])
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
        at, steps = shared["at"], self._steps(shared)
        local = step - int(at[_EPOCH]) * steps
        while at[_STEP] < local:  # a worker that is gone has left something out
            self._advance(shared)
        for i in range(len(shared["marks"])):
            self.settle(shared, i, step)
        if local == steps:
            at[_WHAT] = JUDGE

    def detach(self, shared: Arrays) -> list[list[tuple[Array, Array]]]:
        """Have pushes computed from copies of keys and times."""
        state = _state(shared)
        own = State({"coef": state["coef"], "keys": state["keys"].copy(), "moved": state["moved"].copy()}, state.lazy)
        state.read = own.views()
        found: list[list[tuple[Array, Array]]] = []
        for i, (lo, hi) in enumerate(state.ranges):
            first, last = self._features(state, i)
            times = [(state["moved"][first:last], own["moved"][first:last])] if state.lazy else []
            found.append([(state["keys"][lo:hi], own["keys"][lo:hi]), *times])
        return [*found, []]

    def named(self, shared: Arrays, push: Push) -> Arrays:
        """Return the gradient of the mean loss; of sparse rows without the penalty's, by which features shrink."""
        d, k = shared["coef"].shape
        n = d if push.touched is None else len(push.touched)
        found = np.zeros((d, k))
        found[slice(None) if push.touched is None else push.touched] = push.keys[: n * k].reshape(n, k)
        return {"coef": found, "intercept": push.keys[n * k :]}

    def shown(self, shared: Arrays) -> Arrays:
        """Return all that `init` goes on from, with the moving weights instead of the best ones."""
        return {**self.snapshot(shared), "coef": shared["w"], "intercept": shared["b"]}

    # ranges in other processes

    def part(self, shared: Arrays, i: int) -> list[Array]:
        """Return weights, sum and counts of range ``i``."""
        lo, hi = _state(shared).ranges[i]
        total = shared["total"][lo:hi] if self._average else shared["total"]
        return [shared["keys"][lo:hi], total, *self.beside(shared, i), shared["marks"][i]]

    def aside(self, shared: Arrays) -> list[Array]:
        """Return the best weights."""
        return [shared["coef"], shared["intercept"]]

    def beside(self, shared: Arrays, i: int) -> list[Array]:
        """Return when the features of range ``i`` were moved."""
        state = _state(shared)
        lo, hi = self._features(state, i)
        return [state["moved"][lo:hi]] if state.lazy else []

    def spots(self, shared: Arrays, i: int, touched: Array) -> tuple[Array, Array]:
        """Return where touched features and the intercept are in the keys of range ``i``, and in what is `beside`."""
        state = _state(shared)
        d, k = state["coef"].shape
        lo, hi = state.ranges[i]
        rows = touched.astype(np.int64) - lo // k
        keys = (rows[:, None] * k + np.arange(k)).ravel()
        return (np.concatenate([keys, np.arange(d * k, hi) - lo]) if hi > d * k else keys), rows

    def cut(self, shared: Arrays, push: Push, i: int) -> Push:
        """Return what range ``i`` has to know of a push that touches some features alone."""
        state, touched = _state(shared), push.touched
        assert touched is not None
        d, k = state["coef"].shape
        first, last = self._features(state, i)
        mine = (touched >= first) & (touched < last)
        slope = push.keys[len(touched) * k :] if state.ranges[i][1] > d * k else push.keys[:0]
        v = push.keys[: len(touched) * k].reshape(-1, k)[mine]
        return dataclasses.replace(push, keys=np.concatenate([v.ravel(), slope]), touched=touched[mine])

    def settle(self, shared: Arrays, i: int, step: int) -> bool:
        """Have all of range ``i`` shrunk and summed as of a step, at a pause; True if that moves what `work` reads."""
        state, (lo, hi) = _state(shared), _state(shared).ranges[i]
        steps, epoch = self._steps(state), int(state["marks"][i, _BEGUN])
        if step > (epoch + 1) * steps:
            if state["marks"][i, _DONE] == 0:  # begun, no more: as little of it is known as of those that were left out
                state["marks"][i, _DONE] = steps + 1
            epoch = (step - 1) // steps
            self._begin(state, i, epoch)
        done = int(state["marks"][i, _DONE])
        local = min(step - epoch * steps, steps)
        if local <= 0 or done > steps:
            return False
        self._include(state, i, local)
        first, last = self._features(state, i)
        if state.lazy:
            from tutti.learners._kernels.touched import settle

            _, decay, seen = self._tables(state, epoch, state["marks"][i, _RATE])
            w, moved, total = state["w"][first:last], state["moved"][first:last], self._total_of(state)[first:last]
            settle(w, moved, decay, total, seen, local)
            if local == steps:
                moved[:] = 0
        if local == steps:
            state["marks"][i, _DONE] = steps + 1  # it is closed
            if self._average:
                state["total"][lo:hi] += state["keys"][lo:hi]
        return state.lazy

    # helpers

    def _steps(self, shared: Arrays) -> int:
        return self.sgd._steps(int(shared["n_rows"][0]))

    def _real(self, shared: Arrays) -> Any:
        return np.float64 if shared["wide"][0] else np.float32

    def _total_of(self, state: State) -> Array:
        """Return the sum over the steps of every weight, (d, K); of no rows where it is not kept."""
        d, k = state["coef"].shape
        return state["total"][: d * k].reshape(-1, k)

    def _features(self, state: State, i: int) -> tuple[int, int]:
        """Return the features of range ``i``."""
        d, k = state["coef"].shape
        lo, hi = state.ranges[i]
        return lo // k, min(hi // k, d)

    def _candidate(self, shared: Arrays) -> tuple[Array, Array]:
        if not self._average or not shared["at"][_AVERAGED]:
            return shared["w"], shared["b"]
        d, k = shared["coef"].shape
        mean = np.empty_like(shared["keys"])
        for (lo, hi), n in zip(_state(shared).ranges, shared["marks"][:, _MEAN_OF], strict=True):
            mean[lo:hi] = shared["total"][lo:hi] / n if n else shared["keys"][lo:hi]
        return mean[: d * k].reshape(d, k), mean[d * k :]

    def _begin(self, state: State, i: int, epoch: int) -> None:
        """Have range ``i`` in an epoch, and the one before at its end."""
        marks, (lo, hi) = state["marks"][i], state.ranges[i]
        begun = int(marks[_BEGUN])
        if epoch <= begun:
            return
        self.settle(state, i, (begun + 1) * self._steps(state))
        marks[_BEGUN], marks[_DONE] = epoch, 0
        if any(e & (e + 1) == 0 for e in range(begun + 1, epoch + 1)):  # as SGD does: forget the first half
            state["total"][lo:hi], marks[_MEAN_OF] = 0.0, 0

    def _include(self, state: State, i: int, local: int) -> None:
        """Have all steps before ``local`` in the sum, but for weights that are made up for when they are touched."""
        marks, (lo, hi) = state["marks"][i], state.ranges[i]
        done = int(marks[_DONE])
        if local <= done:
            return
        if self._average and local > max(done, 1):
            first = max(lo, state["coef"].size) if state.lazy else lo
            state["total"][first:hi] += (local - max(done, 1)) * state["keys"][first:hi]
        marks[_DONE], marks[_MEAN_OF] = local, marks[_MEAN_OF] + local - done

    def _advance(self, shared: Arrays) -> None:
        """A step is complete."""
        shared["at"][_AVERAGED] += 1
        shared["at"][_STEP] += 1

    def _tables(self, state: State, epoch: int, rate: Array) -> tuple[Array, Array, Array]:
        """Return of an epoch, by step: learning rates, how far a weight has shrunk, and the sum of that after 0."""
        of = epoch, *rate.tolist()
        if state.of != of:
            steps, total = self._steps(state), float(rate[1])
            known = {"rate": rate, "n_rows": state["n_rows"]}
            decay = np.ones(steps + 1)
            rates = np.zeros(steps)
            if total:  # else nothing was ever moved
                rates = np.atleast_1d(self.sgd._eta(known, epoch * steps + np.arange(steps)))
            if total and math.isfinite(self.problem.C):
                rates = np.minimum(rates, 0.5 * total)  # no step takes more than half of a weight away
                decay[1:] = np.maximum(np.cumprod(1.0 - rates / total), _FEWEST)
            seen = np.zeros(steps + 1)
            np.cumsum(decay[1:-1], out=seen[2:])
            state.tables, state.of = (rates, decay, seen), of
        return state.tables

    def _sums(
        self, state: State, at: tuple[int, int], rows: Mapping[int, list[Rows]], data: Mapping[int, ShardData]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array], Array | None]:
        """Return the weights that were pulled, (v, a) over the rows there, and which features they are of."""
        read = state.read
        real, b = self._real(state), read["b"].copy()
        if state.renumber is None:
            w = read["w"].copy()
            found = [along(collect(self.problem, data[s], r, (w, b), real)) for s, r in rows.items() if r]
            v, a = (np.sum(sums, axis=0) for sums in zip(*found, strict=True))
            return (w, b), (v, a), None
        from tutti.learners._kernels.touched import fetch

        mine = state.renumber.batch([r for some in rows.values() for r in some])
        w = np.empty((len(mine.touched), len(b)))
        decay = self._tables(state, at[0], state["rate"])[1]
        fetch(read["w"], read["moved"], decay, at[1], mine.touched, w)
        try:
            sums = collect(self.problem, Nowhere(), [mine.rows], (w, b), real)
        except DataError:
            for s, some in rows.items():  # once more, where the value can be found
                collect(self.problem, data[s], some, (read["w"], b), real)
            raise
        return (w, b), along(sums), mine.touched


def _state(shared: Arrays) -> State:
    assert isinstance(shared, State)
    return shared
