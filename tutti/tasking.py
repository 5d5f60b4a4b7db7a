"""The door of learners whose work is tasks: trees, folds, pairs of classes, subsets of rows.

Work goes in stages.  The tasks of a stage need nothing from one another, so any rank may perform any of them at any
time; what they return is put together by the number of the task, and the next stage follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

from tutti.errors import PlanError
from tutti.protocols import Learner, ShardData
from tutti.types import Array, Arrays, Order, Proposal, Schema, Update


@dataclass(frozen=True)
class Room:
    """An array that tasks fill together and later tasks read: binned columns, predictions of all rows."""

    shape: tuple[int, ...]
    dtype: str


class Lent(list[Arrays]):
    """Parts by number of the task that several ranks of this process may read.

    ``once(make)`` returns what ``make()`` returned to the first of them that called it, the same object to all; who
    calls it reads the parts nowhere else.  So ``make`` may say of one part after the other that it has been read to the
    end, ``read(task)``: what it holds is undefined then, and its memory is given back.

    Parameters
    ----------
    parts : views, by number of the task.
    once, read : see above.
    """

    def __init__(
        self, parts: Iterable[Arrays], once: Callable[[Callable[[], Any]], Any], read: Callable[[int], None]
    ) -> None:
        super().__init__(parts)
        self.once, self.read = once, read


class Rows(Protocol):
    """What a task may read besides the shared state: the rows of every shard, and what earlier stages made of them.

    ``shard(i)`` returns the rows of any shard; on one host they lie once in memory, as far as they are kept there.
    ``common(name)`` returns a room that this stage or an earlier one has named: the same memory to all ranks of a host.
    ``alive()`` says that a long task is at work, now and then, so that nobody takes its rank for lost; it raises
    `tutti.errors.Aborted` when the run was stopped.
    ``hands()`` says how many threads the task may use just now: one, and its share of the cores of workers that have
    nothing to do because fewer tasks than workers are left.  No bit may depend on it.
    """

    @property
    def schema(self) -> Schema: ...
    @property
    def n_shards(self) -> int: ...
    def shard(self, i: int) -> ShardData: ...
    def common(self, name: str) -> Array: ...
    def alive(self) -> None: ...
    def hands(self) -> int: ...


@runtime_checkable
class Tasked(Learner, Protocol):
    """A learner whose work is tasks, in stages; it offers "part".

    The seed of the run comes in through ``init``; a learner with a task for each shard has ``n_shards`` as a parameter.

    Contract
    --------
    - ``outline(schema)`` returns the stages by name with the estimated cost of each of their tasks, for the plan; of
      stages that repeat, the first.  Costs of a stage have a unit of their own.
    - ``tasks(shared)`` returns the estimated cost of each task of the coming stage, by number; empty: all is done.
    - ``rooms(shared)`` returns the rooms that tasks of the coming stage write into, mostly none.  A name that is new
      gets memory, contents undefined; one that is known stays what it is, and later stages may read it.  A task writes
      places of its own, reads nothing there that another one of its stage writes, and a second time it writes the same.
    - ``perform`` is pure: it depends on the shared state, the number of the task, the rows and what earlier stages have
      written into rooms.  Who performs it, when, and in which order changes no bit.
    - ``assemble`` takes the parts by number of the task and returns the shared state of the next stage, the same on
      every rank.  Parts may be views of memory that is used again: it copies what it keeps.  They may be `Lent`: then
      the ranks of a process can have one copy together, and need not hold all of the parts beside it.
    """

    def outline(self, schema: Schema) -> Mapping[str, Sequence[float]]: ...
    def tasks(self, shared: Arrays) -> Sequence[float]: ...
    def rooms(self, shared: Arrays) -> Mapping[str, Room]: ...
    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays: ...
    def assemble(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays: ...


@runtime_checkable
class Spreading(Learner, Protocol):
    """A learner that can leave the rows with the ranks that hold them; these need not see common memory.

    Contract
    --------
    - ``unspreadable`` says why this learner cannot, None if it can.
    - ``spread`` is the program of one of ``size`` parts, which has the rows of some shards: it yields bytes for all
      parts, is sent those of all, by number, and returns the shared state, the same in each.  No bit of it depends on
      how many parts there are, or which shards each has.
    - Where a part is lost, `tutti.errors.Regrouped` is raised at the same ``yield`` of all that are left, with the
      shards that each has then.  If the program does not catch it, it is begun again.
    """

    def unspreadable(self) -> str | None: ...
    def spread(
        self,
        schema: Schema,
        data: Mapping[int, ShardData],
        seed: int,
        start: Arrays | None,
        rank: int,
        size: int,
    ) -> Generator[bytes, list[Any], Arrays]: ...


class OnlyTasks:
    """The doors of a `Learner` that one whose whole work is tasks does not have; inherit and write the others."""

    def rooms(self, shared: Arrays) -> Mapping[str, Room]:
        """Return no rooms: all that tasks find is in what they return."""
        return {}

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        self._refuse()

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        self._refuse()

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PlanError(f"the work of {type(self).__name__} is tasks: use strategy=tutti.TaskParallel()")
