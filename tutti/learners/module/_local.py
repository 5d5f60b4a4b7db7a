"""A shard's own steps between two merges: from the shared weights, with an optimizer of its own.

The shards of a rank take turns on one net.  A turn begins at the shared weights and gives them back; it leaves how far
it went, and the optimizer's tensors, which change hands by reference.  Rows, random numbers and learning rates are
those of the global steps that the turn is about.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tutti.errors import InputError
from tutti.learners.module import _rows
from tutti.learners.module._net import LOSS, WEIGHT, Net
from tutti.learners.module._stepper import aligned
from tutti.protocols import ShardData
from tutti.seeds import seed as seed_of
from tutti.types import Array, Arrays, Order, Proposal, Update

if TYPE_CHECKING:
    from tutti.learners.module._rows import ShardRows
    from tutti.learners.module.learner import ModuleLearner

Kept = dict[str, dict[str, Any]]
"""What an optimizer keeps for each parameter, by "GROUP/PLACE IN IT"."""


class Turns:
    """Lends a net to one shard after the other.

    Parameters
    ----------
    net : whose shards go alone from now on, each with tensors of its own for the optimizer.
    step : global steps done.
    """

    def __init__(self, net: Net, step: int) -> None:
        net.separate()
        self.net, self._optimizer = net, net.stepper.optimizer
        begun = {name.removeprefix("optimizer/"): array for name, array in net.stepper.state().items()}
        self._begun = kept_of(begun)  # by a warm start
        self._rates = Rates(self._optimizer, net.stepper.free(), step)
        self._weights, self._stats = net.flat.clone(), net.stats.copy()
        self._out = {**net.template(), "grad": net.stepper.gradient}

    def template(self) -> dict[str, Array]:
        """Return arrays shaped like an update."""
        sizes = {"delta": self.net.length, "weight": 1, "steps": 1, "sums": 2, "stats": len(self.net.stats)}
        return {name: aligned(n, self.net.numpy_dtype) for name, n in sizes.items()}

    def propose(
        self, learner: ModuleLearner, first: int, private: ShardRows, data: ShardData, order: Order
    ) -> Proposal:
        """Take the shard's part of the steps from ``first`` on; return how far that went, times its weight."""
        net, own = self.net, self._out
        steps = range(first, first + learner.ahead(first, int(order.hints.get("local_steps", 1))))
        ranges = [learner.deal.rows(step % learner.deal.n_steps) for step in steps]
        loss = weight = 0.0
        n_own = 0
        self._rates.forget(first)
        with self._turn(private):
            for step in steps:
                self._rates.put(step)
                picks = learner.picks(step, private, data, order)
                if picks is None:
                    continue
                batch = _rows.batch(net, learner.fields, learner.target, [(data, picks)])
                n_rows = sum(len(rows) for _, rows in picks)
                seed = seed_of(order.seed, order.shard, step, "forward")
                net.gradient(batch, own, n_rows=n_rows, seed=seed, share=1.0, first=True, parts=learner.accumulate)
                learner.check_loss(own, step, order.shard)
                weighs, had = float(own["sums"][WEIGHT]), own["sums"][3:]
                if weighs > 0:
                    net.move(n_rows / weighs, None if had.min() > 0 else (had > 0).tolist(), learner.clip)
                net.stats[:] = own["stats"]
                net.place_stats()
                loss, weight, n_own = loss + float(own["sums"][LOSS]), weight + weighs, n_own + n_rows
            self._rates.put(steps.stop)
            out = order.out if order.out is not None else self.template()
            went = torch.from_numpy(out["delta"])
            torch.sub(self._weights.cpu(), net.flat.cpu(), out=went).mul_(weight)
            out["stats"][:] = net.stats
            kept = {name: dict(self._optimizer.state.get(p, {})) for name, _, p in _params(self._optimizer)}
        out["weight"][0], out["steps"][0], out["sums"][:] = weight, weight * len(steps), (loss, weight)
        n_all = sum(stop - start for rows in ranges for start, stop in rows)
        leads = all(stop == start for rows in ranges for start, stop in rows[: order.shard])
        net.share_stats(out["stats"], n_own / n_all, first=n_own > 0 and leads)
        return Proposal(Update("delta", out, {"delta": net.matrices}), kept)

    def apply(self, sums: Arrays, scale: float, first: int) -> tuple[int, float, float]:
        """Move the shared weights along a merged update; return (steps it took, sum of losses, sum of weights)."""
        weight = float(sums["weight"][0])
        if weight <= 0:
            raise InputError(f"all rows of the steps from {first} on weigh nothing")
        steps = round(float(sums["steps"][0]) / weight)
        flat, went = self.net.flat, self._out["grad"]  # no gradient is needed now, and torch wants what it may write to
        went[:] = sums["delta"]
        flat.sub_(torch.from_numpy(went).to(flat.device), alpha=scale / weight)
        self.net.stats[:] = sums["stats"]
        self.net.place_stats()
        self._rates.put(first + steps)
        return steps, float(sums["sums"][LOSS]), float(sums["sums"][WEIGHT])

    @contextmanager
    def _turn(self, private: ShardRows) -> Iterator[None]:
        """Have the shard's tensors in the optimizer; then the weights are the shared ones again."""
        net = self.net
        self._weights.copy_(net.flat)
        self._stats[:] = net.stats
        self._take(private)
        try:
            yield
        finally:
            self._optimizer.state.clear()
            net.flat.copy_(self._weights)
            net.stats[:] = self._stats
            net.place_stats()

    def _take(self, private: ShardRows) -> None:
        """Give the optimizer a copy of what the shard keeps, in its spare tensors where they fit."""
        state, kept, spare = self._optimizer.state, private.kept, private.spare or {}
        state.clear()
        for name, group, p in _params(self._optimizer):
            own, free = (self._begun if kept is None else kept).get(name, {}), spare.get(name, {})
            there = group.get("fused") or group.get("capturable")  # else torch counts steps on the host
            if own:
                state[p] = {
                    key: _copied(value, free.get(key), p.device if there or key != "step" else None)
                    for key, value in own.items()
                }


class Rates:
    """What a schedule makes of the optimizer's options at each global step, for whoever comes back to one.

    Parameters
    ----------
    optimizer : whose options are meant.   scheduler : is at ``step``; None: the options stay.
    """

    def __init__(self, optimizer: Any, scheduler: Any, step: int) -> None:
        self._optimizer, self._scheduler = optimizer, scheduler
        self._known = {step: self._present()}
        self._last = step

    def put(self, step: int) -> None:
        """Give the optimizer the options of a step; those of earlier steps but the last round's are forgotten."""
        if self._scheduler is None:
            return
        if step > self._last:
            self._set(self._last)
        while step > self._last:
            self._optimizer._opt_called = True  # the steps are made in turns, so torch sees no order in them
            self._scheduler.step()
            self._last += 1
            self._known[self._last] = self._present()
        self._set(step)

    def forget(self, step: int) -> None:
        """Forget the options of the steps before ``step``."""
        for known in [s for s in self._known if s < step]:
            del self._known[known]

    def _set(self, step: int) -> None:
        for group, options in zip(self._optimizer.param_groups, self._known[step], strict=True):
            group.update(options)

    def _present(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]


def arrays_of(kept: Kept | None) -> dict[str, Array]:
    """Return what a shard keeps as arrays by name."""
    tensors = {f"{name}/{key}": value for name, own in (kept or {}).items() for key, value in own.items()}
    return {name: t.detach().cpu().numpy() for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def kept_of(arrays: Arrays) -> Kept:
    """Return what `arrays_of` was given."""
    found: Kept = {}
    for name, array in arrays.items():
        place, _, key = name.rpartition("/")
        found.setdefault(place, {})[key] = torch.tensor(array)
    return found


def _params(optimizer: Any) -> list[tuple[str, dict[str, Any], Any]]:
    groups = enumerate(optimizer.param_groups)
    return [(f"{g}/{i}", group, p) for g, group in groups for i, p in enumerate(group["params"])]


def _copied(value: Any, spare: Any, device: torch.device | None) -> Any:
    if not isinstance(value, torch.Tensor):
        return copy.deepcopy(value)
    home = device or value.device
    if isinstance(spare, torch.Tensor) and (spare.shape, spare.dtype, spare.device) == (value.shape, value.dtype, home):
        return spare.copy_(value)
    return value.to(home, copy=True)
