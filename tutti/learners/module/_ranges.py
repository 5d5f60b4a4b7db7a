"""The optimizer of a net that is served: a step of one key range, on weights and tensors that all ranks see.

Each range counts its own steps, in the same memory; so whoever moves a range goes on from where another has left it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutti.learners.module._net import Clip, Net
from tutti.learners.module._stepper import Allocate, Stepper, aligned
from tutti.types import Array, Push

_REMEMBERED, _AHEAD = 4096, 64  # steps whose options are kept; that are walked at once where they are not


class RangeStepper(Stepper):
    """Moves columns start:stop beside other steppers that move the rest.

    Parameters
    ----------
    whole : the stepper of all columns, whose gradient, options and tensors this one shares.
    weights : flat weights that all ranks see.   start, stop : the own columns.
    allocate : has room for what this range alone keeps.
    join : others have begun, and what lies there stays as it is.
    """

    def __init__(
        self, whole: Stepper, weights: torch.Tensor, start: int, stop: int, allocate: Allocate, join: bool
    ) -> None:
        self.__dict__.update(whole.__dict__)
        homes = whole._homes

        def home(number: int, key: str) -> torch.Tensor:
            found = homes[f"optimizer/{number}/0/{key}"]
            if found.ndim:
                return found
            own = torch.from_numpy(allocate(found.element_size())).view(found.dtype).view(())
            return own if join else own.copy_(found)

        self.begun = allocate(8).view(np.int64)
        if not join:
            self.begun[0] = whole._began
        self._own, self._pieces, groups = (start, stop), [], []
        for number, (group, first, last) in enumerate(self._groups):
            lo, hi = max(first, start), min(last, stop)
            groups.append({"params": [], **self._options[group]})
            own = {key: home(number, key) for key in self._kinds[number]}
            if lo < hi:
                p = torch.nn.Parameter(weights[lo:hi])
                p.grad = self._gradient[lo:hi]
                groups[-1]["params"].append(p)
                mine = {key: t[lo - first : hi - first] if t.ndim else t for key, t in own.items()}
                self._pieces.append((lo, hi, p, mine))
        self.optimizer = self._blueprint.optimizer(groups)
        self._scheduler = None
        self._bound = False

    def counters(self) -> dict[str, torch.Tensor]:
        """Return what this range counts, by name."""
        return {key: t for _, _, _, mine in self._pieces for key, t in mine.items() if not t.ndim}

    def step_as(self, options: Sequence[Mapping[str, Any]], share: float, had: Sequence[bool] | None) -> None:
        """Move along the gradient, with a share of the learning rates in ``options``, one mapping for each group."""
        for group, now in zip(self.optimizer.param_groups, options, strict=True):
            group.update({key: value for key, value in now.items() if key != "params"})
            group["lr"] = now["lr"] * share
        if self.begun[0] and not self._bound:
            for _, _, p, mine in self._pieces:
                self.optimizer.state[p] = dict(mine)
        self.step(had)
        self._bound = True
        self.begun[0] = 1

    def _settle(self) -> None:
        for _, _, p, mine in self._pieces:
            state = self.optimizer.state.get(p, {})
            for key, home in mine.items():
                if state[key] is not home:
                    home.copy_(state[key])
                    state[key] = home


class Rates:
    """What the schedule sets in a step: it is walked forwards, and steps that are not long past are remembered.

    Parameters
    ----------
    stepper : of all columns, which walks on.   step : where it is.
    """

    def __init__(self, stepper: Stepper, step: int) -> None:
        self._whole, self._step = stepper, step
        self._past: dict[int, list[dict[str, Any]]] = {}

    def at(self, step: int) -> Sequence[Mapping[str, Any]]:
        """Return the options of each group in a step."""
        whole = self._whole
        groups: list[dict[str, Any]] = whole.optimizer.param_groups
        if whole._scheduler is None or step == self._step:
            return groups
        if step < self._step:
            if step not in self._past:
                self._walk_again(step)
            return self._past[step]
        while self._step < step:
            self._remember(self._step, groups)
            whole.skip(1)
            self._step += 1
        return groups

    def _remember(self, step: int, groups: Sequence[Mapping[str, Any]]) -> None:
        self._past[step] = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        if len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]

    def _walk_again(self, step: int) -> None:
        """Walk from the first step to this one, and some more, for others may ask for those next."""
        whole = self._whole
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], **whole._options[g]} for g, _, _ in whole._groups]
        again = copy.copy(whole)
        again.optimizer = whole._blueprint.optimizer(groups)
        assert whole._blueprint.schedule is not None
        again._scheduler = whole._blueprint.schedule(again.optimizer)
        again.skip(step)
        for at in range(step, min(step + _AHEAD, self._step)):
            self._remember(at, again.optimizer.param_groups)
            again.skip(1)


class Served:
    """A net whose weights lie in memory that all ranks see, and are moved range by range.

    Parameters
    ----------
    net : made without a job, so that a gradient is one flat array.
    ranges : (start, stop) of the columns, in order.
    steps : global steps made before, which the schedule has gone on for.
    keys_in : has room for weights and the optimizer's tensors.   sums_in : for statistics and counts.
    join : others have begun, and what lies there stays as it is.
    """

    def __init__(
        self,
        net: Net,
        ranges: Sequence[tuple[int, int]],
        steps: int,
        keys_in: Allocate,
        sums_in: Allocate,
        join: bool = False,
    ) -> None:
        self.net, self._join = net, join
        kept, whole = net.stepper.state(), net.stepper
        memory: Array = keys_in(net.weights.nbytes).view(net.numpy_dtype)
        if not join:
            memory[:] = net.weights
        net._put(memory, copy=not join)
        self.steppers: list[RangeStepper] = []
        if whole.divisible:
            whole.own(net._flat, 0, net.length, keys_in)
            if not join:
                for home in whole._homes.values():
                    home.zero_()
                whole.restore(kept)
            whole.skip(steps)
            self.steppers = [RangeStepper(whole, net._flat, *r, keys_in, join) for r in ranges]
        self.stats: Array = sums_in(max(net.stats.nbytes, 8)).view(net.numpy_dtype)[: len(net.stats)]
        self.pushed = sums_in(8).view(np.int64)
        if not join:
            self.stats[:], self.pushed[0] = net.stats, 0
        template = {"grad": net.stepper.gradient, "sums": net.template()["sums"], "stats": net.template()["stats"]}
        self.out: dict[str, Array] = template
        self._rates = Rates(net.stepper, steps)
        self._ranges, self._keys, self._seen = ranges, memory, self.stats
        self._best: dict[str, Array] = {}
        self._has_best = np.zeros(1, np.int64)
        self._room: Array = np.empty((0, 0), net.numpy_dtype)

    def detach(self) -> list[tuple[Array, Array]]:
        """Have the net compute on weights and statistics of its own; return (live, own) for each range."""
        own = aligned(self.net.length, self.net.numpy_dtype)
        own[:] = self._keys
        self.net._put(own)
        self._seen = self.stats.copy()
        return [*((self._keys[lo:hi], own[lo:hi]) for lo, hi in self._ranges), (self.stats, self._seen)]

    def attend(self) -> None:
        """Have weights and statistics in the net as they are now, while nobody moves them."""
        if self.net.weights is not self._keys:
            self.net.weights[:] = self._keys
        self.net.stats[:] = self.stats
        self.net.place_stats()

    def push(
        self,
        batch: dict[str, torch.Tensor],
        *,
        step: int,
        seed: int,
        share: float,
        n_rows: int,
        first: bool,
        parts: int,
        clip: Clip,
    ) -> Push:
        """Return the push of a batch: its mean gradient, and how the statistics change by it."""
        net, out = self.net, self.out
        before = self._seen.copy()
        net.stats[:] = before
        net.gradient(batch, out, n_rows=n_rows, seed=seed, share=1.0, first=True, parts=parts)
        weight = float(out["sums"][1])
        if weight > 0:
            net.shape_gradient(n_rows / weight, clip)
        change = out["stats"]
        change -= before
        change[: net._n_averaged] *= share
        change[net._n_averaged :] *= first
        return Push(step, share, out["grad"], {"sums": out["sums"], "stats": change}, empty=weight <= 0)

    def room(self, n_rows: int, width: int) -> Array:
        """Return where x of so many rows may be written; it is kept."""
        if self._room.shape[1] != width or len(self._room) < n_rows:
            self._room = aligned(n_rows * width, self.net.numpy_dtype).reshape(n_rows, width)
        return self._room[:n_rows]

    def move(self, push: Push, i: int, share: float) -> None:
        """Move range ``i`` along a push."""
        own, whole = self.steppers[i], self.net.stepper
        if push.keys is not whole.gradient:
            lo, hi = own._own
            whole.gradient[lo:hi] = push.keys[lo:hi]
        had = push.sums["sums"][3:]
        own.step_as(self._rates.at(push.step), share, None if had.min() > 0 else (had > 0).tolist())

    def part(self, i: int) -> list[Array]:
        """Return the weights of range ``i`` and what the optimizer keeps of them, counts too."""
        own = self.steppers[i]
        lo, hi = own._own
        kept = [t.numpy().reshape(-1) for _, _, _, mine in own._pieces for t in mine.values()]
        return [self._keys[lo:hi], own.begun, *kept]

    def room_for_best(self, like: Mapping[str, Array], allocate: Allocate, known: Mapping[str, Array]) -> None:
        """Have room for the best weights and statistics where all ranks see them; ``known`` are those of before."""
        self._has_best = allocate(8).view(np.int64)
        self._best = {n: allocate(max(a.nbytes, 8)).view(a.dtype)[: a.size] for n, a in like.items()}
        if not self._join:
            self._has_best[0] = 0
        if known:
            self.keep_best(known)

    def keep_best(self, best: Mapping[str, Array]) -> dict[str, Array]:
        """Take over the best weights and statistics; return where they lie."""
        for name, home in self._best.items():
            home[:] = best[name]
        self._has_best[0] = 1
        return self._best

    def best(self) -> dict[str, Array]:
        """Return the best weights and statistics, if there are any."""
        return self._best if self._has_best[0] else {}

    def aside(self) -> list[Array]:
        """Return the memory of the best weights and statistics."""
        return list(self._best.values())

    def go_to(self, step: int) -> None:
        """Have the learning rates of a global step."""
        self._rates.at(step)

    def gather(self) -> None:
        """Have the optimizer's tensors, counters too, where `Stepper.state` finds them."""
        whole = self.net.stepper
        begun = [s for s in self.steppers if s.begun[0]]
        whole._began = bool(begun)
        for name, home in whole._homes.items():
            counts = [s.counters()[name.rpartition("/")[2]] for s in begun if not home.ndim]
            if counts:
                home.copy_(counts[0])
