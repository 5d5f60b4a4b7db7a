"""The order in which updates were applied, and how one process repeats it.

A worker reads every range of the model at some version, computes, and moves every range, under its lock, from one
version to the next.  An entry for each move says which item it was, which version of that range the item had read, and
which version it moved: enough to repeat the run, for whatever an item computes follows from what it has read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tutti.errors import InputError
from tutti.types import Array

ENTRY = np.dtype([("step", "<u4"), ("part", "<u2"), ("range", "<u2"), ("read", "<u4"), ("moved", "<u4")])
"""16 bytes: item (step, part), range, the version of the range that the item read, the version that it moved."""


class Item(NamedTuple):
    """A piece of work: one part of the rows of a global step."""

    step: int
    part: int


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


def schedule(entries: Array) -> Iterator[Read | Apply]:
    """Yield reads and moves in an order that gives every item what it had read in the recorded run.

    Parameters
    ----------
    entries : (n,) of `ENTRY`, in any order.

    Raises
    ------
    InputError : the entries are not those of one whole run.
    """
    moves, reads, left = _tables(entries)
    version = [0] * len(moves)
    waiting = {item: dict(found) for item, found in reads.items()}  # what an item has still to read
    readers: dict[tuple[int, int], list[Item]] = defaultdict(list)
    for item, found in reads.items():
        for where, at in found.items():
            readers[where, at].append(item)
    while any(at < len(row) for at, row in zip(version, moves, strict=True)):
        moved = False
        for where, row in enumerate(moves):
            if version[where] == len(row):
                continue
            item = row[version[where]]
            if any(version[other] != at for other, at in waiting[item].items()):
                continue
            for reader in (item, *readers[where, version[where]]):
                for other in [where] if reader != item else list(waiting[item]):
                    if waiting[reader].pop(other, None) is not None:
                        yield Read(reader, other)
            left[item] -= 1
            yield Apply(item, where, left[item] == 0)
            version[where] += 1
            moved = True
        if not moved:
            raise InputError(_broken("its entries contradict each other"))


def _tables(entries: Array) -> tuple[list[list[Item]], dict[Item, dict[int, int]], dict[Item, int]]:
    """Return the items that moved each range, in order; what each item read; how many ranges it moved."""
    if entries.dtype != ENTRY:
        raise InputError(_broken(f"its entries are {entries.dtype}"))
    n = int(entries["range"].max()) + 1 if len(entries) else 0
    moves: list[list[Item]] = []
    reads: dict[Item, dict[int, int]] = defaultdict(dict)
    for where in range(n):
        mine = entries[entries["range"] == where]
        mine = mine[np.argsort(mine["moved"], kind="stable")]
        if not np.array_equal(mine["moved"], np.arange(len(mine))):
            raise InputError(_broken(f"range {where} has gaps in its versions"))
        if (mine["read"] > mine["moved"]).any():
            raise InputError(_broken(f"range {where} was read at a version that came later"))
        row = [Item(step, part) for step, part in zip(mine["step"].tolist(), mine["part"].tolist(), strict=True)]
        if len(set(row)) != len(row):
            raise InputError(_broken(f"an item moved range {where} twice"))
        for item, at in zip(row, mine["read"].tolist(), strict=True):
            reads[item][where] = at
        moves.append(row)
    return moves, dict(reads), {item: len(found) for item, found in reads.items()}


def _broken(why: str) -> str:
    return f"the record of applied updates is not that of one whole run: {why}; record the run again"
