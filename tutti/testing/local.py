"""One process that plays all ranks: a learner or strategy runs in a notebook or a debugger without any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tutti.comm.reduction import Layout, tree_sum
from tutti.types import Array, Arrays, Block, Csr, Event, Place, Schema, Seat, Update


@dataclass(frozen=True)
class MemoryShard:
    """A shard whose rows lie in memory, cut into blocks of at most ``block_rows`` rows (None: one block)."""

    id: int
    x: Any
    y: Array
    weight: Array | None = None
    block_rows: int | None = None

    @property
    def n_rows(self) -> int:
        return len(self.y)

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        step = self.block_rows or max(self.n_rows, 1)
        return [(lo, min(lo + step, self.n_rows)) for lo in range(0, self.n_rows, step)]

    def block(self, i: int) -> Block:
        lo, hi = self.bounds[i]
        return Block(_rows(self.x, lo, hi), self.y[lo:hi], None if self.weight is None else self.weight[lo:hi], lo)

    def place(self, row: int) -> tuple[str | None, int]:
        return None, row


def _rows(x: Any, lo: int, hi: int) -> Any:
    if isinstance(x, Csr):
        p = x.indptr[lo : hi + 1]
        a, b = int(p[0]), int(p[-1])
        return Csr(p - a, x.indices[a:b], x.values[a:b], x.n_features)
    return x[lo:hi]


@dataclass
class LocalWorker:
    """A `tutti.protocols.Worker` that hosts every shard itself."""

    schema: Schema
    shards: Mapping[int, MemoryShard]
    seed: int = 0
    start: Arrays | None = None
    events: list[Event] = field(default_factory=list)
    steps: int = 0
    private: dict[int, dict[str, Array]] = field(default_factory=dict)

    @property
    def n_shards(self) -> int:
        return len(self.shards)

    @property
    def seat(self) -> Seat:
        return Seat(0, Place("localhost"), tuple(sorted(self.shards)))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield

    def buffers(self, template: Arrays) -> dict[int, dict[str, Array]]:
        layout = Layout(template)
        slots = np.zeros((self.n_shards, layout.length), layout.dtype)
        return {i: layout.views(slots[i]) for i in range(self.n_shards)}

    def merge(self, updates: Mapping[int, Update]) -> Update:
        first = updates[0]
        layout = Layout(first.arrays)
        slots = np.zeros((self.n_shards, layout.length), layout.dtype)
        for i, update in updates.items():
            layout.pack(update.arrays, slots[i])
        return Update(first.kind, layout.views(tree_sum(slots)))

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def at_step(self, step: int) -> None:
        self.steps = step

    def keep(self, step: int, state: Callable[[], Arrays], best: bool) -> None:
        """Keep nothing."""

    def overdue(self) -> bool:
        return False

    def due(self, step: int, steps: int = 1) -> bool:
        return False

    def keep_all(
        self, step: int, state: Callable[[], Arrays], best: bool, private: Mapping[int, Arrays] | None = None
    ) -> None:
        """Keep nothing."""


def cut(x: Any, y: Array, weight: Array | None = None, n_shards: int = 8) -> dict[int, MemoryShard]:
    """Cut arrays (or a `Csr`) into contiguous shards, as the default partition does."""
    n = len(y)
    edges = [n * s // n_shards for s in range(n_shards + 1)]
    return {
        s: MemoryShard(s, _rows(x, lo, hi), y[lo:hi], None if weight is None else weight[lo:hi])
        for s, (lo, hi) in enumerate(pairwise(edges))
    }
