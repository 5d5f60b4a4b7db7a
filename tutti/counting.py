"""The door of learners that tell the others whole numbers alone, and what they may ask of rows they do not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Cost, Kind, Progress, Schema


class Sums(Protocol):
    """What a `Counting` learner learns of the rows that it does not see.

    Contract
    --------
    - ``total`` adds one array (length,) of int64 from everybody; ``largest`` takes the largest of each number.  Both
      are exact, so nobody's grouping of the rows shows in them.  What they return is read-only, and valid until the
      next call.
    - ``room(length)`` hands out int64 memory that ``total`` takes without a copy, valid until the next ``room``.
    - ``gather`` returns everybody's bytes, in a fixed order.
    - ``alone`` is True where nobody else has rows: all sums are what was given.
    - Each of them raises `tutti.errors.Regrouped` where somebody was lost whose rows others have now (its ``shards``):
      nobody has got what the call returns, and all that are left are at the same place of their program.
    """

    @property
    def alone(self) -> bool: ...
    @property
    def n_shards(self) -> int: ...
    def total(self, whole: Array) -> Array: ...
    def largest(self, values: Array) -> Array: ...
    def room(self, length: int) -> Array: ...
    def gather(self, payload: bytes) -> list[bytes]: ...


@runtime_checkable
class Counting(Protocol):
    """A learner that tells the others whole numbers alone, and may do so many times a round (a tree: once a level).

    Sums of whole numbers are exact in any order, so neither the fixed tree nor proposals by shard are needed: the rows
    of several shards are worked on as one.

    Contract
    --------
    - ``rounds`` works on the rows of all shards it is given, and yields the shared state after each round; the last
      one is the model.  All decisions follow from ``sums``, so they are the same wherever rows lie.
    - Where ``sums`` raises `tutti.errors.Regrouped`, it may take the rows that have come and go on from any place that
      is the same for all; if it does not catch it, its rounds are begun again with these rows.
    - ``prepare``, ``cost`` and ``progress`` are those of `Learner`; ``private_bytes`` are those of all rows together.
    """

    @property
    def offers(self) -> frozenset[Kind]: ...
    def prepare(self, schema: Schema) -> None: ...
    def cost(self, schema: Schema) -> Cost: ...
    def rounds(
        self, schema: Schema, shards: Mapping[int, ShardData], sums: Sums, *, seed: int, start: Arrays | None = None
    ) -> Iterator[Arrays]: ...
    def progress(self, shared: Arrays) -> Progress: ...
