"""The rows of shards as the batches of a net: where they stand in a global batch, how they become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti.learners.module import batches
from tutti.learners.module.batches import Deal, Deck, Picks
from tutti.learners.module.fields import Field, dense_rows
from tutti.protocols import ShardData
from tutti.types import Array, Order

if TYPE_CHECKING:
    from tutti.learners.module._net import Net

CHUNK = 1024  # rows that are judged at once


@dataclass
class ShardRows:
    """What a shard keeps: its rows, the order of the epoch it is in, and what an optimizer of its own keeps."""

    deck: Deck = field(default_factory=lambda: Deck((), ()))
    epoch: int = -1
    order: Picks = field(default_factory=list)
    kept: dict[str, dict[str, Any]] | None = None
    spare: dict[str, dict[str, Any]] | None = None


@lru_cache(maxsize=64)
def deal(shard_rows: tuple[int, ...], validation: float, batch_size: int) -> Deal:
    """Return who gives which rows to which step."""
    return Deal(tuple(n - batches.held_out(n, validation) for n in shard_rows), batch_size)


@lru_cache(maxsize=64)
def places(deal: Deal, place: int) -> list[tuple[int, int]]:
    """Return where in the global batch number ``place`` of an epoch the rows of each shard are."""
    edges = list(accumulate((stop - start for start, stop in deal.rows(place)), initial=0))
    return list(pairwise(edges))


def deck_of(private: ShardRows, data: ShardData, order: Order, fraction: float) -> Deck:
    """Return the shard's rows, drawn at the first call."""
    if not private.deck.train and data.n_rows:
        private.deck = batches.deck(order.seed, order.shard, data.bounds, fraction)
    return private.deck


def batch(
    net: Net,
    fields: Sequence[Field],
    target: bool,
    parts: Sequence[tuple[ShardData, Picks]],
    into: Array | None = None,
) -> dict[str, Any]:
    """Return the tensors of some rows of one or several shards; their x lie in ``into`` if they can."""
    blocks = [(data.block(i), rows) for data, picks in parts for i, rows in picks]
    ys = [block.y[rows] for block, rows in blocks] if target else []
    ws = [block.weight[rows] for block, rows in blocks if block.weight is not None]
    if into is not None and all(_alike(block.x, into) for block, _ in blocks):
        at = 0
        for block, rows in blocks:
            x: Any = block.x
            x.take(rows, axis=0, out=into[at : at + len(rows)], mode="clip")  # "raise" would copy twice
            at += len(rows)
        x = into
    else:
        x = _joined([dense_rows(block.x, rows) for block, rows in blocks])
    return net.tensors(x, fields, *(_joined(parts) if parts else None for parts in (ys, ws)))


def judge(net: Net, fields: Sequence[Field], target: bool, deck: Deck, data: ShardData) -> dict[str, Array]:
    """Return the sums over a shard's validation rows: loss, weight, hits, weight of the rows."""
    sums = np.zeros(4)
    for i, rows in deck.valid:
        for lo in range(0, len(rows), CHUNK):
            tensors = batch(net, fields, target, [(data, [(i, rows[lo : lo + CHUNK])])])
            loss, weight, hits = net.judge(tensors)
            total = float(tensors["weight"].sum()) if "weight" in tensors else float(len(rows[lo : lo + CHUNK]))
            sums += loss, weight, hits, total
    return {"sums": sums}


def _alike(x: Any, into: Array) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == into.dtype and x.shape[1:] == into.shape[1:]


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
