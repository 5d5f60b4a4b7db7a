"""Nets whose weights are served: `tutti.serving.Serving` for `ModuleLearner`.

The rows of a part of the shards go through the net together, as one batch of their own, for nobody promises bits here.
Counts, statistics and the clock lie where all ranks see them; which step a rank works on is in its orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from tutti.errors import InputError
from tutti.learners.module import _rows
from tutti.protocols import ShardData
from tutti.seeds import seed as seed_of
from tutti.types import Array, Arrays, Order, Push

if TYPE_CHECKING:
    from tutti.learners.module._ranges import Served
    from tutti.learners.module.learner import ModuleLearner, State

_STEP = 0  # of "clock"
_LOSS, _WEIGHT = 0, 1  # of "meter"; and of what a push brings
_COMMON = ("clock", "meter", "objective")


class ServesNet:
    """What `ModuleLearner` does where a strategy asks for pushes."""

    def unservable(self) -> str | None:
        """Say why the weights cannot be moved key range by key range; None if they can."""
        own = cast("ModuleLearner", self)
        if own.device != "cpu":
            return f"the net computes on {own.device}, and its weights are not in the memory that all workers see"
        if not own.code.read().elementwise:
            return (
                "its optimizer is not one of torch's that treat every number by itself (optimizer='sgd', 'adamw', ...)"
            )
        return None

    def ranges(self, shared: Arrays, n: int) -> list[tuple[int, int]]:
        """Cut the flat weights at whole cache lines."""
        own = cast("ModuleLearner", self)
        columns = own._net(shared).plain_columns()
        cuts = sorted({columns.cut(i, n) for i in range(n + 1)})
        return list(pairwise(cuts))

    def serve(
        self,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        keys_in: Callable[[int], Array],
        sums_in: Callable[[int], Array],
        join: bool = False,
    ) -> State:
        """Move the weights, the optimizer's tensors and all counts into memory that ranks share, or find them there."""
        from tutti.learners.module._device import make_plain_net
        from tutti.learners.module._ranges import Served

        own = cast("ModuleLearner", self)
        state = own._revive(dict(own.snapshot(shared)), make_plain_net)
        for name in _COMMON:
            common = sums_in(state[name].nbytes).view(state[name].dtype)
            if not join:
                common[:] = state[name]
            state[name] = common
        if not join:
            _begin_epoch(own, state)
        state.served = Served(state.net, ranges, int(state["clock"][_STEP]), keys_in, sums_in, join)
        state["weights"] = state.net.weights
        best = {f"best_{name}": state[name] for name in ("weights", "stats")}
        if own.patience is not None:
            state.served.room_for_best(best, sums_in, {} if join else {n: state[n] for n in best if n in state})
        return state

    def keys(self, shared: Arrays) -> Array:
        """Return the flat weights."""
        return shared["weights"]

    def detach(self, shared: Arrays) -> list[list[tuple[Array, Array]]]:
        """Have the net compute on weights and statistics of its own; return (live, own) for each range."""
        return [[pair] for pair in _served(shared).detach()]

    def named(self, shared: Arrays, push: Push) -> Arrays:
        """Return the gradient by the names of the parameters."""
        spots = _served(shared).net.spots
        return {s.name: push.keys[s.start :][: math.prod(s.shape)].reshape(s.shape) for s in spots}

    def shown(self, shared: Arrays) -> Arrays:
        """Return everything from which `init` goes on, the weights as they are now."""
        return cast("ModuleLearner", self).snapshot(shared)

    def part(self, shared: Arrays, i: int) -> list[Array]:
        """Return the weights of key range ``i`` and what the optimizer keeps of them."""
        return _served(shared).part(i)

    def aside(self, shared: Arrays) -> list[Array]:
        """Return the best weights and statistics."""
        return _served(shared).aside()

    def work(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> Push:
        """Return the mean gradient of some shards' rows in the global batch of ``Order.step``."""
        own, served = cast("ModuleLearner", self), _served(shared)
        first = next(iter(orders.values()))
        place = first.step % own.deal.n_steps
        picks = [
            (data[s], found) for s, o in orders.items() if (found := own.picks(first.step, private[s], data[s], o))
        ]
        n_rows = sum(len(rows) for _, found in picks for _, rows in found)
        share = n_rows / own.deal.n_of(place)
        if not n_rows:
            return Push(first.step, share, served.out["grad"], empty=True)
        before = own.deal.rows(place)[: min(orders)]
        width = max((f.stop for f in own.fields), default=0)
        push = served.push(
            _rows.batch(served.net, own.fields, own.target, picks, served.room(n_rows, width)),
            step=first.step,
            seed=seed_of(first.seed, min(orders), first.step, "forward"),
            share=share,
            n_rows=n_rows,
            first=all(lo == hi for lo, hi in before),
            parts=own.accumulate,
            clip=own.clip,
        )
        own.check_loss(push.sums, first.step, min(orders))
        return push

    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None:
        """Take one step of the optimizer on key range ``i``."""
        _served(shared).move(push, i, share)

    def keep_best(self, state: State, best: dict[str, Array]) -> Mapping[str, Array]:
        """Return the best weights and statistics, where all ranks see them if they are served."""
        served = getattr(state, "served", None)
        return best if served is None else served.keep_best(best)

    def tally(self, shared: Arrays, push: Push, parts: int) -> None:
        """Count a push: its losses, its change of the statistics, and the step that it completes."""
        own, served = cast("ModuleLearner", self), _served(shared)
        if not push.empty:
            shared["meter"][_LOSS] += float(push.sums["sums"][_LOSS])
            shared["meter"][_WEIGHT] += float(push.sums["sums"][_WEIGHT])
            served.stats += push.sums["stats"]
        served.pushed[0] += 1
        if served.pushed[0] % parts == 0:
            _advance(own, cast("State", shared))

    def next_pause(self, shared: Arrays, every: int | None) -> int:
        """Return the next step after which the net is validated or kept, or the last one."""
        own, step = cast("ModuleLearner", self), int(shared["clock"][_STEP])
        stops = [own.n_steps]
        if own.validation > 0 or every is not None:
            stops.append((step // own.deal.n_steps + 1) * own.deal.n_steps)
        if every:
            stops.append((step // every + 1) * every)
        return min(stops)

    def reached(self, shared: Arrays, step: int) -> None:
        """Have clock, statistics and the optimizer's counts as after so many steps."""
        own, state = cast("ModuleLearner", self), cast("State", shared)
        while state["clock"][_STEP] < step:  # a worker that is gone has left something out
            _advance(own, state)
        served = _served(shared)
        state.update(served.best())
        served.attend()
        served.gather()


def _advance(own: ModuleLearner, state: State) -> None:
    _served(state).go_to(int(state["clock"][_STEP]) + 1)  # as after a step that all make together
    own._advance(state)
    _begin_epoch(own, state)


def _begin_epoch(own: ModuleLearner, state: State) -> None:
    if state["clock"][_STEP] % own.deal.n_steps == 0:
        state["meter"][[_LOSS, _WEIGHT]] = 0.0


def _served(shared: Arrays) -> Served:
    served = getattr(shared, "served", None)
    if served is None:
        raise InputError("serve() comes first")
    return cast("Served", served)
