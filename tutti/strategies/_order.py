"""The order in which updates were applied, and how one process repeats it.

A worker reads every range of the model at some version, computes, and moves every range, under its lock, from one
version to the next.  An entry for each move says which item it was, which version of that range the item had read, and
which version it moved: enough to repeat the run, for whatever an item computes follows from what it has read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tutti.errors import InputError
from tutti.types import Array

ENTRY = np.dtype([("step", "<u4"), ("part", "<u2"), ("range", "<u2"), ("read", "<u4"), ("moved", "<u4")])
"""16 bytes: item (step, part), range, the version of the range that the item read, the version that it moved."""
NEVER, TORN = 2**32 - 1, 2**32 - 2
"""Instead of a version that was moved: the range was read alone; its move was cut in the middle."""

ATTEMPT, RESTORED = 2**16 - 1, 2**16 - 2
"""Instead of a part, where servers write: what follows is of that attempt ("step"); a range was set back."""


class Item(NamedTuple):
    """A piece of work: one part of the rows of a global step, done by one worker."""

    step: int
    part: int
    worker: int = 0


@dataclass(frozen=True)
class Read:
    """The item reads a range as it is now."""

    item: Item
    range: int


@dataclass(frozen=True)
class Apply:
    """The item moves a range; ``last`` if it was its last one."""

    item: Item
    range: int
    last: bool


def schedule(logs: Sequence[Array], base: Sequence[int], whole: bool = True) -> Iterator[Read | Apply]:
    """Yield reads and moves in an order that gives every item what it had read in the recorded run.

    Parameters
    ----------
    logs : for each worker (n,) of `ENTRY`, in any order.
    base : the version of each range before the first entry.
    whole : False for a run that was cut short: the order ends where nothing is certain any more.

    Raises
    ------
    InputError : the entries are not those of one run.
    """
    tables = _tables(logs, base, whole)
    moves, waiting, left = tables.moves, tables.reads, tables.left
    version = list(base)
    readers: dict[tuple[int, int], list[Item]] = defaultdict(list)
    for item, found in waiting.items():
        for where, at in found.items():
            readers[where, at].append(item)
    todo = sum(map(len, moves))
    while todo:
        before = todo
        for where, row in enumerate(moves):
            if version[where] - base[where] == len(row):
                continue
            item = row[version[where] - base[where]]
            if item in tables.unknown or any(version[other] != at for other, at in waiting.get(item, {}).items()):
                continue
            for reader in (item, *readers[where, version[where]]):
                for other in [where] if reader != item else list(waiting.get(item, {})):
                    if waiting.get(reader, {}).pop(other, None) is not None:
                        yield Read(reader, other)
            left[item] -= 1
            yield Apply(item, where, left[item] == 0)
            version[where] += 1
            todo -= 1
        if todo == before:
            if whole:
                raise InputError(broken("its entries contradict each other"))
            return


@dataclass
class _Tables:
    """The items that moved each range, in order; what each item read; how many ranges it moved.

    ``unknown`` are those of which it is not known all that they read.
    """

    moves: list[list[Item]]
    reads: dict[Item, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    left: dict[Item, int] = field(default_factory=lambda: defaultdict(int))
    unknown: set[Item] = field(default_factory=set)


def _tables(logs: Sequence[Array], base: Sequence[int], whole: bool) -> _Tables:
    n = len(base)
    found = _Tables([[] for _ in range(n)])
    steps: list[dict[int, Item]] = [{} for _ in range(n)]  # of each range, by version
    torn = set[tuple[int, int, int]]()
    for worker, entries in enumerate(logs):
        if entries.dtype != ENTRY:
            raise InputError(broken(f"its entries are {entries.dtype}"))
        for step, part, where, read, moved in entries.tolist():
            if part == RESTORED:
                back = steps[where].setdefault(moved, Item(step, part, read))
                found.left[back] = 1
                continue
            item = Item(step, part, worker)
            if where >= n or found.reads[item].setdefault(where, read) != read:
                raise InputError(broken(f"step {step} has two readings of range {where} of {n}"))
            if moved == TORN:
                torn.add((step, part, where))
            elif moved != NEVER:
                if moved < read or read < base[where]:
                    raise InputError(broken(f"range {where} was read at a version that came later, or long before"))
                if steps[where].setdefault(moved, item) is not item:
                    raise InputError(broken(f"range {where} was moved twice from version {moved}"))
                found.left[item] += 1
    for step, part, where in torn:  # unless it was lost just after
        if not any(item[:2] == (step, part) for item in steps[where].values()):
            raise InputError(
                broken(f"a worker was lost in the middle of a move of range {where} of {n}, in step {step}")
            )
    for where, row in enumerate(steps):
        at = base[where]
        while at in row:
            found.moves[where].append(row.pop(at))
            at += 1
        if row and whole:
            raise InputError(broken(f"range {where} has gaps in its versions"))
        back = any(item.part == RESTORED for item in found.moves[where])  # the same push may come again then
        if len(set(found.moves[where])) != len(found.moves[where]) and not back:
            raise InputError(broken(f"an item moved range {where} twice"))
    found.unknown = {item for item, seen in found.reads.items() if len(seen) < n}
    if found.unknown and whole:
        raise InputError(broken(f"step {min(found.unknown).step} lacks what was read of some ranges"))
    found.reads = {item: seen for item, seen in found.reads.items() if found.left[item]}
    return found


def broken(why: str) -> str:
    """Return the sentence that refuses a record."""
    return f"the record of applied updates is not that of one whole run: {why}; record the run again"
