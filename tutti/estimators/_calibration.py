"""Probabilities for a model that has none: fitted on some shards, calibrated on the others, in turn.

A data set without some of its shards is again a data set: the hidden shards are empty.  So every fit of the
cross-fitting runs through the same doors, on all workers, with the same bits for any number of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.estimators._decision import decision
from tutti.types import Array, Block, Schema

MAX_FOLDS = 5


@dataclass(frozen=True)
class EmptyShard:
    """A shard without rows."""

    id: int
    n_rows: int = 0

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        return ()

    def block(self, i: int) -> Block:
        """There is none."""
        raise IndexError(f"block {i} of shard {self.id}, which has no rows")

    def place(self, row: int) -> tuple[str | None, int]:
        """There is none."""
        raise IndexError(f"row {row} of shard {self.id}, which has no rows")

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class WithoutShards:
    """A data set in which the shards ``hidden`` are empty."""

    dataset: Any
    hidden: tuple[int, ...]

    def keeps(self, schema: Schema) -> Any:
        """Return where decoded rows are kept."""
        return self.dataset.keeps(schema)

    def shard_rows(self, n_shards: int, schema: Schema) -> tuple[int, ...]:
        """Return the rows of every shard; none in a hidden one."""
        rows = self.dataset.shard_rows(n_shards, schema)
        return tuple(0 if s in self.hidden else n for s, n in enumerate(rows))

    def settled(self, n_shards: int, schema: Schema) -> WithoutShards:
        """Return the data set in the form to send to other processes."""
        return WithoutShards(self.dataset.settled(n_shards, schema), self.hidden)

    def open(self, shard_id: int, n_shards: int, schema: Schema) -> Any:
        """Return the rows of one shard."""
        return EmptyShard(shard_id) if shard_id in self.hidden else self.dataset.open(shard_id, n_shards, schema)


@dataclass(frozen=True)
class Fold:
    """One part of a cross-fitting: fit ``train``, calibrate on the shards ``held``."""

    train: WithoutShards
    schema: Schema
    held: tuple[int, ...]


def folds(dataset: Any, n_shards: int, schema: Schema) -> list[Fold]:
    """Return at most five folds; shard s is held out by fold s mod n_folds, as long as it has rows.

    Raises
    ------
    DataError : a class lies in the shards of one fold alone, so that the rest would be fitted without it.
    """
    n_folds = min(MAX_FOLDS, n_shards)
    classes = schema.classes or ()
    counts = np.zeros((n_shards, len(classes)))
    weights = np.zeros((n_shards, len(classes)))
    for s in range(n_shards):
        for block in _blocks(dataset, s, n_shards, schema):
            counts[s] += np.bincount(block.y, minlength=len(classes))
            weights[s] += np.bincount(block.y, weights=block.weight, minlength=len(classes))
    found = []
    for f in range(n_folds):
        held = tuple(range(f, n_shards, n_folds))
        if not counts[list(held)].any():
            continue
        rest = [s for s in range(n_shards) if s not in held]
        left, weight = counts[rest].sum(axis=0), weights[rest].sum(axis=0)
        lost = np.flatnonzero(weight == 0)
        if len(lost):
            c = classes[lost[0]]
            raise DataError(
                f"probability=True fits without the shards {', '.join(map(str, held))}, where all rows of class {c!r} "
                'lie; deal the classes out with Dataset.partition("stratified"), or bring more rows of this class'
            )
        share = float(left.sum()) / schema.n_rows
        inner = dataclasses.replace(
            schema,
            n_rows=int(left.sum()),
            class_counts=tuple(int(c) for c in left),
            class_weight_sums=tuple(weight.tolist()),
            weight_sum=float(weight.sum()),
            n_values=round(schema.n_values * share),
            n_bytes=round(schema.n_bytes * share),
        )
        found.append(Fold(WithoutShards(dataset, held), inner, held))
    return found


def held_out(
    dataset: Any, fold: Fold, n_shards: int, schema: Schema, coef: Array, intercept: Array
) -> tuple[Array, Array, Array]:
    """Return (decision values, class codes, weights) of the rows that the fold holds out."""
    values, codes, weights = [np.zeros((0, len(coef)))], [np.zeros(0, dtype=np.int32)], [np.zeros(0)]
    for s in fold.held:
        for block in _blocks(dataset, s, n_shards, schema):
            values.append(decision(block.x, coef, intercept))
            codes.append(block.y)
            weights.append(np.ones(len(block.y)) if block.weight is None else block.weight)
    return np.concatenate(values), np.concatenate(codes), np.concatenate(weights)


def _blocks(dataset: Any, shard: int, n_shards: int, schema: Schema) -> Iterator[Block]:
    data = dataset.open(shard, n_shards, schema)
    try:
        for i in range(len(data.bounds)):
            yield data.block(i)
    finally:
        data.close()
