"""What workers and servers say to each other between hosts, and where shards are.

A message is a table of plain values and arrays (`tutti._parcel`).  Kinds:

- STEP: a worker has pushed an item, or something else that it was told to do, and asks the first server what is next;
  with it goes the push of the range of the server that is asked, back comes what has changed there since.
- PULL: what has changed of the range since, as soon as every step before ``floor`` is complete in it.
- GATHER: all that moves with the range.
- JUDGED: the sums over the rows of shards, for the first server, where they are too long for one STEP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tutti.calling import Calls
from tutti.protocols import Worker
from tutti.serving import Remote, Serving, Touching
from tutti.strategies._mover import Mover, own_memory
from tutti.types import Array, Plan, Seat

STEP, PULL, GATHER, JUDGED = range(1, 5)
WORK, AGAIN, JUDGE, KEEP, END = "work", "again", "judge", "keep", "end"
"""What the first server tells a worker to do."""
PATIENCE_SECONDS = 1.0  # a request that cannot be granted by then is answered with AGAIN
TURN = 40  # bits of a version that count updates
UPDATES = (1 << TURN) - 1
SLACK = 1 << 20  # bytes of a message besides its large arrays


def with_servers(draft: Plan, servers: int) -> Plan:
    """Return the plan with so many servers behind the workers, whose seats have roles from now on."""
    import dataclasses

    place = dataclasses.replace(draft.seats[0].place, cores=1)
    workers = tuple(dataclasses.replace(seat, role="worker") for seat in draft.seats)
    behind = tuple(Seat(draft.size + s, place, (), role="server") for s in range(servers))
    return dataclasses.replace(draft, seats=(*workers, *behind), restarts=draft.size + servers)


class Lone:
    """A `tutti.protocols.Commons` of one process that decides for all workers.

    Parameters
    ----------
    calls : knows which workers are gone.
    """

    waited = 0.0
    alone = True

    def __init__(self, calls: Calls) -> None:
        self.gone, self.run = calls.gone, calls.run

    def memory(self, n_bytes: int) -> Array:
        return own_memory(n_bytes)

    def locks(self, n: int) -> Sequence[AbstractContextManager[object]]:
        return [contextlib.nullcontext()] * n

    def ring(self) -> None:
        """Nobody else listens."""

    def wait(self, until: Any) -> None:
        raise AssertionError("who decides for all does not wait")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        return make()


class Copy:
    """A rank's own copy of the served state, of which servers have a range each.

    Parameters
    ----------
    worker, learner, servers, optimizer : as in `ParameterServer`.
    n_workers : the others are servers.
    """

    def __init__(self, worker: Worker, learner: Serving, servers: int, optimizer: Any, n_workers: int) -> None:
        blocks: list[Array] = []

        def sums_in(n_bytes: int) -> Array:
            blocks.append(own_memory(n_bytes))
            return blocks[-1]

        shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
        self.ranges = learner.ranges(shared, servers)
        self.shared = learner.serve(shared, self.ranges, own_memory, sums_in)
        self.keys = learner.keys(self.shared)
        assert isinstance(learner, Remote)  # the plan has seen to it
        self.touching = learner if isinstance(learner, Touching) and optimizer is None else None
        """The learner, if a push may move a few keys alone."""
        aside = {_address(array) for array in learner.aside(self.shared)}
        self._sums = [block for block in blocks if _address(block) not in aside]
        self.aside = [block for block in blocks if _address(block) in aside]
        """What changes at pauses alone, such as the best keys so far."""
        self.mover = Mover(learner, self.shared, self.ranges, optimizer, worker.start, own_memory, n_workers)
        self.n_bytes = sum(a.nbytes for i in range(len(self.ranges)) for a in self.mover.part(i))
        self.n_bytes += 2 * self.keys.nbytes + sum(block.nbytes for block in blocks)

    @property
    def model(self) -> Array:
        """The keys of the model, which are not those that a worker steps where averaging is elastic."""
        return self.keys if self.mover.elastic is None else self.mover.states[0]

    def sums(self) -> Array:
        """Return what counts and judges, as bytes."""
        return np.concatenate([block.view(np.uint8) for block in self._sums])

    def put_sums(self, sums: Array) -> None:
        """Take over what `sums` returned elsewhere."""
        at = 0
        for block in self._sums:
            block[:] = sums[at : at + block.nbytes]
            at += block.nbytes

    def put_part(self, i: int, part: Sequence[Array]) -> None:
        """Take over range ``i`` with all that moves with it."""
        for own, came in zip(self.mover.part(i), part, strict=True):
            own[:] = came

    def beside(self, i: int) -> list[Array]:
        """Return what is read of range ``i`` besides its keys."""
        return [] if self.touching is None else self.touching.beside(self.shared, i)

    def spots(self, i: int, touched: Array) -> tuple[Array, Array]:
        """Return where touched features are in the keys of range ``i``, and in what is read besides."""
        assert self.touching is not None
        return self.touching.spots(self.shared, i, touched)

    def put_aside(self, aside: Sequence[Array]) -> None:
        """Take over what lies `aside` elsewhere."""
        for own, came in zip(self.aside, aside, strict=True):
            own[:] = came


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
