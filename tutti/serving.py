"""The door of learners whose state is served: moved by pushes that come at any time, as a parameter server wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tutti.protocols import Learner, ShardData, Trainable
from tutti.types import Array, Arrays, Order, Push

Pairs = list[tuple[Array, Array]]
"""Arrays that others move, and the copies that are read."""


@runtime_checkable
class Serving(Trainable, Protocol):
    """A learner whose numbers, the keys, are moved by pushes as they come, each key range under its own lock.

    Contract
    --------
    - ``unservable`` says why this learner cannot do it, None if it can.
    - ``ranges(shared, n)`` cuts the keys into about ``n`` ranges (start, stop), in order and without a gap.
    - ``serve(shared, ranges, keys_in, sums_in)`` returns the state with the keys and all that moves with them in
      memory of ``keys_in(n_bytes)``, and what counts and judges in memory of ``sums_in``; every rank writes the same
      into it, but who comes late (``join``) takes what lies there as it is.  ``keys(shared)`` is the flat array of the
      keys.
    - ``work`` returns the push of some shards' rows in the global step ``Order.step``, from the keys as they are.  It
      may keep buffers of its own in it: a push is good until the next one.
    - ``move(shared, push, i, share)`` moves the keys of range ``i`` along a push; ``share`` scales the learning rate.
      ``tally(shared, push, parts)`` counts it, ``parts`` of which make a step.  The caller holds the lock of that
      range, or of the sums.
    - ``next_pause(shared, every)`` is the step at which all workers have to meet: the end of the training, or earlier
      where the state is judged, or kept (``every``: as `Worker.keeps`).  ``reached(shared, step)`` says that all is
      counted until there.  Between two pauses only
      ``progress``, ``tells`` and ``milestone`` may be asked, under the lock of the sums.
    """

    def unservable(self) -> str | None: ...
    def ranges(self, shared: Arrays, n: int) -> list[tuple[int, int]]: ...
    def serve(
        self,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        keys_in: Callable[[int], Array],
        sums_in: Callable[[int], Array],
        join: bool = False,
    ) -> Arrays: ...
    def keys(self, shared: Arrays) -> Array: ...
    def work(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> Push: ...
    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None: ...
    def tally(self, shared: Arrays, push: Push, parts: int) -> None: ...
    def next_pause(self, shared: Arrays, every: int | None) -> int: ...
    def reached(self, shared: Arrays, step: int) -> None: ...


@runtime_checkable
class Housed(Serving, Protocol):
    """A learner whose pushes move private state of shards, too, which therefore lies where all ranks see it.

    Contract
    --------
    - ``house(shared, rows, parts, memory, fresh)``, after ``serve`` and before anything else, finds room for it in
      ``memory(n_bytes)``: ``rows`` are those of every shard, ``parts`` the items of a step.  What belongs to the
      shards ``fresh``, and all that follows from these numbers, begins here; without any, others have begun.
    - ``move`` moves it with the last push that ``work`` has returned, under the lock of the range.
    """

    def house(
        self, shared: Arrays, rows: Sequence[int], parts: int, memory: Callable[[int], Array], fresh: Sequence[int]
    ) -> None: ...


@runtime_checkable
class Remote(Serving, Protocol):
    """A learner whose key ranges may be moved in other processes, which see no common memory.

    Contract
    --------
    - ``part(shared, i)`` returns all that moves with range ``i``, as arrays (k,) of that memory, of the same lengths
      on every rank: who copies them from another rank's state goes on with that range from there.
    - ``aside(shared)`` returns what lies in ``sums_in`` and changes at pauses alone, such as the best keys so far.
    """

    def part(self, shared: Arrays, i: int) -> list[Array]: ...
    def aside(self, shared: Arrays) -> list[Array]: ...


@runtime_checkable
class Touching(Remote, Protocol):
    """A learner whose pushes may move a few keys, which is all that then travels, and that judges more than the keys.

    Contract
    --------
    - ``cut(shared, push, i)`` returns what ``move`` has to know of a push with ``Push.touched`` to move range ``i``.
    - ``beside(shared, i)`` returns the arrays that ``work`` reads of range ``i`` besides the keys, parts of ``part``.
      ``spots(shared, i, touched)`` tells where a push moves them: indices into the keys of the range, and into each of
      these arrays.
    - ``settle(shared, i, step)`` does with range ``i`` what ``reached`` does with all of them, once; it returns whether
      that moved anything that ``work`` reads.
    """

    def cut(self, shared: Arrays, push: Push, i: int) -> Push: ...
    def beside(self, shared: Arrays, i: int) -> list[Array]: ...
    def spots(self, shared: Arrays, i: int, touched: Array) -> tuple[Array, Array]: ...
    def settle(self, shared: Arrays, i: int, step: int) -> bool: ...


@runtime_checkable
class Detaching(Serving, Protocol):
    """A learner whose work can be repeated: it reads nothing that others move while it computes.

    Contract
    --------
    - ``detach(shared)``, after ``serve``, has ``work`` read a copy of the caller's own from now on.  It returns
      pairs (live, own) for each key range and last for the sums: arrays of the same shape, the one that ``move`` and
      ``tally`` change and the one that ``work`` reads.  What ``work`` returns follows from ``own``, the orders and the
      rows alone, and ``move`` from the push, the range and what it moves.
    - ``named(shared, push)`` returns what a push moves along as arrays by the names of the parameters.
    - ``shown(shared)`` returns what ``snapshot`` does, for who stops here to look: its model has the keys as they are.
    """

    def detach(self, shared: Arrays) -> list[Pairs]: ...
    def named(self, shared: Arrays, push: Push) -> Arrays: ...
    def shown(self, shared: Arrays) -> Arrays: ...


@runtime_checkable
class Servable(Learner, Protocol):
    """A learner that has another form to be served in.

    Contract
    --------
    - ``served(whole)`` returns it; ``whole`` asks for pushes of all keys, since a server moves them by its own rules.
    """

    def served(self, whole: bool) -> Serving: ...
