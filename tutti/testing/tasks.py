"""`check_tasked`: does a learner keep the contract of `tutti.tasking.Tasked`?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tutti.protocols import ShardData
from tutti.runtime.digest import model_sha256
from tutti.tasking import Room, Tasked
from tutti.types import Array, Arrays, Schema

_MOST_STAGES = 10_000


class LocalRows:
    """A `tutti.tasking.Rows` in one process: tasks run in a notebook or a debugger without any engine."""

    def __init__(self, schema: Schema, shards: Mapping[int, ShardData], hands: int = 1) -> None:
        self.schema, self.n_shards, self._hands = schema, len(shards), hands
        self._shards, self._rooms = shards, dict[str, Array]()

    def shard(self, i: int) -> ShardData:
        """Return the rows of a shard."""
        return self._shards[i]

    def common(self, name: str) -> Array:
        """Return a room."""
        return self._rooms[name]

    def alive(self) -> None:
        """Say nothing: nobody listens."""

    def hands(self) -> int:
        """Return how many threads a task may use."""
        return self._hands

    def make(self, rooms: Mapping[str, Room], fill: int) -> None:
        """Make the rooms that are not there yet, every byte of them ``fill``."""
        for name, room in rooms.items():
            if name not in self._rooms:
                self._rooms[name] = np.full(int(np.prod(room.shape)), 0, room.dtype).reshape(room.shape)
                self._rooms[name].view(np.uint8)[...] = fill


def perform_all(
    learner: Tasked,
    schema: Schema,
    shards: Mapping[int, ShardData],
    *,
    seed: int = 0,
    order: Callable[[int], Sequence[int]] = range,
    times: int = 1,
    fill: int = 0,
    hands: int = 1,
) -> Arrays:
    """Perform all tasks in this process and return what is assembled last.

    Parameters
    ----------
    order : returns the order in which n tasks are performed.
    times : how often each is performed; the last time counts.
    fill : what is in the bytes of new rooms.
    hands : how many threads a task may use.
    """
    rows = LocalRows(schema, shards, hands)
    shared = learner.init(schema, seed=seed)
    for _ in range(_MOST_STAGES):
        costs = learner.tasks(shared)
        if not len(costs):
            return shared
        assert all(np.isfinite(c) and c >= 0 for c in costs), f"costs are finite numbers >= 0, came {costs}"
        rows.make(learner.rooms(shared), fill)
        before = model_sha256(shared)
        parts: dict[int, Arrays] = {}
        for task in [t for t in order(len(costs)) for _ in range(times)]:
            parts[task] = {name: _frozen(a) for name, a in learner.perform(shared, task, rows).items()}
        assert model_sha256(shared) == before, "perform changes the shared state"
        lent = [{name: a.copy() for name, a in parts[task].items()} for task in range(len(costs))]
        shared = learner.assemble(shared, lent)
        after = model_sha256(shared)
        for part in lent:
            for array in part.values():
                array.reshape(-1).view(np.uint8)[...] = 0xA5
        owns = model_sha256(shared) == after
        assert owns, "assemble keeps views of parts, whose memory is used again; copy what is kept"
    raise AssertionError(f"the learner has not ended after {_MOST_STAGES} stages")


def check_tasked(
    learner: Tasked, schema: Schema, shards: Mapping[int, ShardData], *, model: Sequence[str] | None = None
) -> None:
    """Perform all tasks in several orders; raise AssertionError with the broken sentence of the contract, or return.

    Parameters
    ----------
    model : names of the shared arrays that make up the model; None: all of them.
    """
    assert isinstance(learner, Tasked), f"{type(learner).__name__} lacks a method of tutti.tasking.Tasked"
    assert "part" in learner.offers, 'a learner whose work is tasks offers "part"'
    learner.prepare(schema)
    outline = learner.outline(schema)
    first = learner.tasks(learner.init(schema, seed=7))
    assert len(next(iter(outline.values()))) == len(first), "outline has another number of tasks than the first stage"

    def sha(**how: object) -> str:
        found = perform_all(learner, schema, shards, seed=7, **how)  # type: ignore[arg-type]
        assert learner.progress(found).done, "no task is left before the learner is done"
        return model_sha256({name: found[name] for name in (model or found)})

    right = sha()
    assert sha(order=lambda n: range(n - 1, -1, -1)) == right, "the bits depend on the order of the tasks"
    assert sha(times=2) == right, "a task that is performed twice leaves other bits"
    assert sha(hands=3) == right, "the bits depend on how many threads a task may use"
    assert sha(fill=0xFF) == right, "a task reads what nobody has written into a room"


def _frozen(array: Array) -> Array:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
