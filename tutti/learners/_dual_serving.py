"""Dual coordinate ascent whose weights are served: `tutti.serving.Housed` for `DualCoordinateDescent`.

An item is a slice of the rows of some shards.  Its worker reads w where it lies, ascends the dual of these rows shard
by shard on a copy, and pushes the change of w.  Others have moved w by then; but only this item moves its duals, so

    D(a + eta da) - D(a) >= eta (Phi_old - Phi_new - <w, dw>) - 1/2 eta^2 |dw|^2       with w as it is now,

and the best eta, found under the lock of w, never lets the dual fall, however old the weights were.  Duals, w and the
intercept move under that one lock, so w = sum_i a_i y_i x_i whenever it is free.  Duals lie in memory that all ranks
see.  A worker killed while it holds the lock leaves some duals moved and others not, each of them feasible: the next
pause then derives w from them anew.

Source: Hsieh, Yu, Dhillon (2015), "PASSCoDe"; Ma et al. (2015), "Adding vs. averaging in distributed primal-dual
optimization".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti._merging import adapt, merges_per_epoch
from tutti.errors import RunError
from tutti.learners import _dual_shard as shard_state
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Cost, Kind, Order, Progress, Proposal, Push, Schema, Update

if TYPE_CHECKING:
    from tutti.learners.dual import DualCoordinateDescent

_STEP, _BEGAN, _EPOCH, _MERGES, _MOST, _DUE, _JUDGED, _PUSHED, _CLOSED = range(9)  # of "at"
_HELD, _TORN = range(2)  # of "torn": duals are moved just now; somebody died meanwhile
_DONE = 3  # in the status


class State(dict[str, Array]):
    """The shared arrays, and what one rank keeps beside them.

    Parameters
    ----------
    arrays : of `DualCoordinateDescent.init`, and of this module.   schema : of the data.
    """

    def __init__(self, arrays: Arrays, schema: Schema) -> None:
        super().__init__(arrays)
        self.schema = schema
        self.parts = 1
        self.homes: list[tuple[Array, Array, Array]] = []
        """Where the duals, prices and rests of each shard lie."""
        self.pulled, self.pulled_b = np.empty_like(arrays["w"]), np.zeros(len(arrays["b"]))
        self.local, self.total = np.empty_like(arrays["w"]), np.empty_like(arrays["w"])
        self.pending: list[tuple[shard_state.Shard, shard_state.Visits]] = []
        """What the push that was computed last moves in private state."""


class ServedDual:
    """What `DualCoordinateDescent.served` returns.

    Parameters
    ----------
    dual : the learner.
    whole : a server would move the weights by rules of its own; which is refused.
    """

    def __init__(self, dual: DualCoordinateDescent, whole: bool = False) -> None:
        self.dual, self.problem, self._whole = dual, dual.problem, whole

    @property
    def offers(self) -> frozenset[Kind]:
        return self.dual.offers

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels."""
        self.dual.prepare(schema)

    def cost(self, schema: Schema) -> Cost:
        return self.dual.cost(schema)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> State:
        plain = self.dual.init(schema, seed=seed, start=start)
        more = {"at": np.zeros(9, np.int64), "torn": np.zeros(2, np.int64)}
        return State({**plain, **more, "sigma": np.ones(1), "went": np.zeros(2)}, schema)

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return self.dual.adopt(schema, data)

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        return self.dual.progress(shared)

    # at pauses

    def due(self, shared: Arrays) -> bool:
        """Tell whether a certificate is to be made."""
        return bool(shared["at"][_DUE])

    def tells(self, shared: Arrays) -> bool:
        """Tell whether one was made just now."""
        return bool(shared["at"][_JUDGED] == shared["at"][_STEP] > 0)

    def milestone(self, shared: Arrays) -> tuple[int, bool]:
        """Return (steps done, False): the best weights are kept in any case."""
        return int(shared["at"][_STEP]), False

    def snapshot(self, shared: Arrays) -> Arrays:
        return self.result(shared)

    def result(self, shared: Arrays) -> Arrays:
        """Return the arrays that the training leaves."""
        return {name: np.array(shared[name]) for name in ("coef", "intercept", "primal", "dual", "status")}

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Return the sums of a certificate, and of how many rows they are."""
        shard = _at_home(_state(shared), private, order.shard)
        found = shard_state.summary(self.problem, shared, shard, data, order)
        return Proposal(Update("summary", {**found.update.arrays, "rows": np.array([float(data.n_rows)])}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        """Judge the point, and derive w from the duals; in place, what says that it is done last."""
        sums, at = dict(merged.arrays), shared["at"]
        if sums.pop("rows")[0] < _state(shared).schema.n_rows:  # nobody has the rows of a worker that is gone
            if not np.isfinite(shared["primal"]).all():
                raise RunError(
                    "a worker was lost whose rows nobody else can read, before the first certificate was made; train "
                    "again, or keep the rows in memory: Dataset.cached('memory')"
                )
            shared["status"][_DONE] = 1.0
        else:
            self.dual.apply(shared, Update("summary", sums), 1.0)
            shared["torn"][:] = 0
            at[_JUDGED] = at[_STEP]
        at[_DUE] = 0
        return shared

    # pushes

    def unservable(self) -> str | None:
        """Refuse a server's own rules, if there are any."""
        if not self._whole:
            return None
        return "its weights are sums over dual variables, from which a server_optimizer would part them; write None"

    def ranges(self, shared: Arrays, n: int) -> list[tuple[int, int]]:
        """Return one range, whatever ``n``: the line search needs all weights at rest."""
        return [(0, shared["w"].size)]

    def serve(
        self,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        keys_in: Callable[[int], Array],
        sums_in: Callable[[int], Array],
        join: bool = False,
    ) -> State:
        """Move weights, sums and counts into memory that ranks share, or find them there."""
        state = State(shared, _state(shared).schema)
        for name, array in shared.items():
            where = keys_in if name == "w" else sums_in
            common = where(max(array.nbytes, 8)).view(array.dtype)[: array.size].reshape(array.shape)
            if not join:
                common[...] = array
            state[name] = common
        return state

    def house(
        self, shared: Arrays, rows: Sequence[int], parts: int, memory: Callable[[int], Array], fresh: Sequence[int]
    ) -> None:
        """Place duals, prices and rests of all shards; those of ``fresh`` ones begin at 0."""
        state, at = _state(shared), shared["at"]
        k, dtype, loss = len(shared["b"]), shared["w"].dtype, self.problem.loss
        n, ends = sum(rows), np.cumsum([0, *rows]).tolist()
        prices, rests = (n if loss == "logistic" else 0), (n if loss in ("hinge", "squared_hinge") else 0)

        def room(length: int, width: int, of: Any) -> Array:
            n_bytes = max(length * width * np.dtype(of).itemsize, 8)
            found: Array = memory(n_bytes).view(of)[: length * width].reshape(length, width)
            return found

        a, price, rest = room(n, k, dtype), room(prices, k, dtype), room(rests, 1, np.uint8).reshape(-1)
        state.homes = [(a[i:j], price[i:j], rest[i:j]) for i, j in pairwise(ends)]
        state.parts = parts
        for s in fresh:
            for array in state.homes[s]:
                array[:] = 0
        if fresh:
            at[_MOST] = at[_MERGES] = self._merges(state)

    def keys(self, shared: Arrays) -> Array:
        """Return the flat weights."""
        return shared["w"].reshape(-1)

    def work(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> Push:
        """Return the change of w that some shards' rows of this step would like, one shard after the other."""
        state, at = _state(shared), shared["at"].tolist()
        step = next(iter(orders.values())).step
        kappa, w, b = self.dual.stiffness(shared), state.local, state.pulled_b
        np.copyto(state.pulled, shared["w"])
        np.copyto(w, state.pulled)
        np.copyto(b, shared["b"])
        state.total[:], state.pending = 0.0, []
        rise, sides, seen = np.zeros(len(b)), np.zeros((2, len(b))), np.zeros(5)
        hints = {"sigma": float(shared["sigma"][0]), "n_shards": float(state.parts), "merges": at[_MOST] / len(orders)}
        for s, order in orders.items():
            moved = sides[1] - sides[0]
            here: Arrays = {"w": w, "b": b + kappa * moved}
            part = (step - at[_BEGAN], at[_MERGES])
            asked = Order(step, "dual", order.seed, s, part, at[_EPOCH], hints)
            shard = _at_home(state, private[s], s)
            found = shard_state.local_epoch(self.problem, here, shard, data[s], asked, kappa)
            arrays, dw = found.update.arrays, found.update.arrays["dw"]
            change = (arrays["a"][1] - arrays["a"][0]).astype(np.float64)
            rise += arrays["rise"] + np.einsum("jk,jk->k", state.total, dw) + kappa * moved * change
            sides += arrays["a"]
            seen += arrays["seen"]
            state.total += dw
            w += dw
            state.pending.append((shard, found.private))
        sums = {"rise": rise, "a": sides, "seen": seen}
        return Push(step, 1.0, state.total.reshape(-1), sums, empty=not seen[2])

    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None:
        """Go along a push as far as the dual rises, with w, the intercept and the duals."""
        state, torn, sums = _state(shared), shared["torn"], push.sums
        torn[_TORN] |= torn[_HELD]  # who had the lock before has died with it
        torn[_HELD] = 1
        dw, change = push.keys.reshape(shared["w"].shape), sums["a"][1] - sums["a"][0]
        since = np.einsum("jk,jk->k", np.subtract(shared["w"], state.pulled, out=state.local), dw)
        rise = sums["rise"] - since - (shared["b"] - state.pulled_b) * change
        update = Update("dual", {"dw": dw, "rise": rise, "a": sums["a"], "seen": sums["seen"]})
        eta = self.dual.line_search(shared, update)
        for shard, visits in state.pending:
            shard_state.keep(shard, visits, eta)
        if sums["seen"][3]:
            self.dual.apply(shared, update, eta)
            shared["went"] += float(eta.min()), 1.0
        torn[_HELD] = 0

    def tally(self, shared: Arrays, push: Push, parts: int) -> None:
        """Count a push, and the step that it completes."""
        at = shared["at"]
        at[_PUSHED] += 1
        at[_STEP] += at[_PUSHED] % parts == 0

    def next_pause(self, shared: Arrays, every: int | None) -> int:
        """Return the end of the epoch."""
        return int(shared["at"][_BEGAN] + shared["at"][_MERGES])

    def reached(self, shared: Arrays, step: int) -> None:
        """End the epoch: choose the caution and the merges of the next one, and whether to make a certificate."""
        at, went = shared["at"], shared["went"]
        if at[_CLOSED] >= step:
            return
        self.dual.close(shared)
        if went[1]:
            shared["sigma"][0] = adapt(float(shared["sigma"][0]), float(went[0] / went[1]), _state(shared).parts)
            went[:] = 0.0
        at[_DUE] = self.dual.due(shared) or shared["torn"].any()
        at[_STEP], at[_PUSHED], at[_EPOCH] = step, 0, at[_EPOCH] + 1
        at[_BEGAN], at[_MERGES] = step, self._merges(_state(shared))
        at[_CLOSED] = step

    def _merges(self, state: State) -> int:
        return merges_per_epoch(state.schema, len(state["b"]), len(state.homes), self.dual.merge_share(state))


def _state(shared: Arrays) -> State:
    assert isinstance(shared, State)
    return shared


def _at_home(state: State, shard: shard_state.Shard, s: int) -> shard_state.Shard:
    """Return the shard with its duals where all ranks see them."""
    if shard.a is not state.homes[s][0]:
        shard.a, shard.price, shard.rest = state.homes[s]
    return shard
