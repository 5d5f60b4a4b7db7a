"""What a push does to the keys, range by range: a step of the learner's own optimizer, or of the server's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tutti.serving import Remote, Serving
from tutti.strategies.server_optimizers import Elastic
from tutti.types import Array, Arrays, Push

_SPRING = 0.9  # of elastic averaging, over all workers


class Mover:
    """Moves the key ranges of a served state.

    Parameters
    ----------
    learner, shared, ranges : what `Serving.serve` returned, for which ranges.
    optimizer : of the server; None: the learner's own.
    start : what a run before has left, if anything.
    memory : has room for what the server's optimizer keeps.
    n_workers : how many push.
    join : the memory holds what a run that goes on has left there.
    """

    def __init__(
        self,
        learner: Serving,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        optimizer: Any,
        start: Arrays | None,
        memory: Callable[[int], Array],
        n_workers: int,
        join: bool = False,
    ) -> None:
        self._learner, self._shared, self.ranges, self._optimizer = learner, shared, ranges, optimizer
        self.elastic = optimizer if isinstance(optimizer, Elastic) else None
        self.states: list[Array] = []
        if optimizer is None:
            return
        keys, start = learner.keys(shared), start or {}
        self._rate = (self.elastic.rate or _SPRING / n_workers) if self.elastic is not None else 0.0
        self._counts = memory(8 * len(ranges)).view(np.int64)
        if not join:
            self._counts[:] = int(start.get("server/count", 0))
        for k in range(optimizer.n_states):
            state = memory(keys.nbytes).view(keys.dtype)
            if not join:
                state[:] = start.get(f"server/{k}", 0)
            self.states.append(state)
        if self.elastic is not None:  # its one state is the model itself; keys are a worker's own
            center = memory(keys.nbytes).view(keys.dtype)
            (keys if join else center)[:] = center if join else keys
            self.states.append(center)

    def move(self, i: int, push: Push) -> None:
        """Move range ``i`` along a push; nobody else moves it meanwhile."""
        learner, optimizer = self._learner, self._optimizer
        if optimizer is None:
            learner.move(self._shared, push, i, push.share)
            return
        lo, hi = self.ranges[i]
        own = learner.keys(self._shared)[lo:hi]
        states = [state[lo:hi] for state in self.states]
        if self.elastic is not None:
            self.draw(i, own)
            return
        self._counts[i] += 1
        optimizer.move(own, push.keys[lo:hi], states, int(self._counts[i]), push.share)

    def draw(self, i: int, own: Array) -> None:
        """Draw range ``i`` of the model and a worker's own weights there together."""
        lo, hi = self.ranges[i]
        self._optimizer.move(self.states[0][lo:hi], own, (), 0, self._rate)

    def part(self, i: int) -> list[Array]:
        """Return all that moves with range ``i``: whoever is given it goes on from there."""
        assert isinstance(self._learner, Remote)  # the plan has seen to it
        lo, hi = self.ranges[i]
        found = [] if self._optimizer is None else [self._counts[i : i + 1], *(state[lo:hi] for state in self.states)]
        return [*self._learner.part(self._shared, i), *found]

    def kept(self) -> Arrays:
        """Return what the server's optimizer leaves for who goes on."""
        if self._optimizer is None or self.elastic is not None:
            return {}
        found: dict[str, Array] = {f"server/{k}": np.array(state) for k, state in enumerate(self.states)}
        return {**found, "server/count": np.array(self._counts.max())}


def own_memory(n_bytes: int) -> Array:
    """Return zeroed memory of this rank alone."""
    raw = np.zeros(n_bytes + 64, np.uint8)
    skip = -raw.__array_interface__["data"][0] % 64
    return raw[skip : skip + n_bytes]
