"""What a round costs on the wire with and without a transform, and from which bandwidth on it stops to pay.

    as it is     c alpha + n (W-1)/W (t + 1) / B + rows (W-1)/W / B     t: partial sums that a rank sends
    compressed   alpha + (S - s) payload / B + s encode + S decode      S shards, s of them on a rank

A rank cannot add what shards of its own have encoded without giving up that the bits are the same for any number of
workers, so every payload of the others comes by itself: fewer shards are fewer payloads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.forms import Coder
from tutti.transforms.half import Half
from tutti.transforms.quantize import Int8
from tutti.transforms.topk import TopK

Chain = tuple[Coder, ...]
CANDIDATES: tuple[Chain, ...] = ((Half(),), (Int8(),), (TopK(0.05), Int8()))
"""What "auto" chooses from, the most faithful first."""
GAIN = 0.8
"""The first form must bring the predicted exchange of a round below this share of what it is without."""
NEXT = 0.6
"""A less faithful form must bring it below this share of that of the one before."""
SPEEDS = {"Half": (3.5e9, 1e10), "Int8": (5e9, 1.5e10), "TopK": (1.5e9, 1e10)}
"""Bytes of an update that one core encodes and decodes in a second, as measured; the plan's guess."""


@dataclass(frozen=True)
class Link:
    """What ranks measured between them.

    Parameters
    ----------
    latency : seconds of a call that carries nothing.   bandwidth : bytes that reach a rank in a second.
    """

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Traffic:
    """What a round sends.

    Parameters
    ----------
    n_values, itemsize : of one shard's update.
    shards : how many each rank holds.
    partials : partial sums that a rank sends at most; see `tutti.comm.reduction.subtrees`.
    n_bytes, row_bytes : of one shard's update as it is, and of what all shards send besides.
    """

    n_values: int
    itemsize: int
    shards: tuple[int, ...]
    partials: int
    n_bytes: int
    row_bytes: int = 0

    def plain_bytes(self) -> float:
        """Return the bytes that reach a rank in a round, at most, as it is."""
        size = len(self.shards)
        return (self.n_bytes * (self.partials + 1) + self.row_bytes) * (size - 1) / size

    def plain_calls(self) -> int:
        """Return c: to cut and to gather, or at once, where two ranks have nothing to save by that."""
        return 1 if len(self.shards) == 2 and self.partials == 1 else 2

    def payload(self, chain: Chain) -> int:
        """Return the bytes of a shard's payload."""
        return chain[0].n_bytes(self.n_values, np.dtype(f"f{self.itemsize}"), chain[1:])

    def sent_bytes(self, chain: Chain) -> int:
        """Return the bytes of all other shards' payloads, which reach a rank in a round."""
        return (sum(self.shards) - min(self.shards)) * self.payload(chain)

    def work(self, chain: Chain, speeds: Mapping[str, tuple[float, float]]) -> float:
        """Return the seconds in which a rank encodes its shards and decodes all."""
        encode, decode = speeds[type(chain[0]).__name__]
        return self.n_values * self.itemsize * (max(self.shards) / encode + sum(self.shards) / decode)


def seconds(traffic: Traffic, chain: Chain, link: Link, speeds: Mapping[str, tuple[float, float]] = SPEEDS) -> float:
    """Return the predicted exchange of a round; an empty chain sends the update as it is."""
    if not chain:
        return traffic.plain_calls() * link.latency + traffic.plain_bytes() / link.bandwidth
    return link.latency + traffic.sent_bytes(chain) / link.bandwidth + traffic.work(chain, speeds)


def choose(traffic: Traffic, link: Link, speeds: Mapping[str, tuple[float, float]] = SPEEDS) -> Chain:
    """Return the form that pays, () for none: the most faithful that is not beaten clearly by the next."""
    chosen: Chain = ()
    best = seconds(traffic, (), link)
    for chain in CANDIDATES:
        if traffic.sent_bytes(chain) > GAIN * traffic.plain_bytes():
            continue  # it would save calls at best
        predicted = seconds(traffic, chain, link, speeds)
        if predicted < best * (NEXT if chosen else GAIN):
            chosen, best = chain, predicted
    return chosen


def break_even(traffic: Traffic, chain: Chain, speeds: Mapping[str, tuple[float, float]] = SPEEDS) -> float:
    """Return the bandwidth in bytes a second above which the form costs more than it saves; 0 if it never pays."""
    saved = traffic.plain_bytes() - traffic.sent_bytes(chain)
    return max(saved, 0.0) / traffic.work(chain, speeds)


def most_shards(traffic: Traffic, chain: Chain) -> int:
    """Return how many shards, a power of two for each rank, still save about half of the bytes; 0 if no number does."""
    size, payload, found = len(traffic.shards), traffic.payload(chain), 0
    each = 1
    while each <= max(traffic.shards):
        if each * (size - 1) * payload <= 1.1 * traffic.n_bytes * (size - 1) / size:
            found = each * size
        each *= 2
    return found


def name_of(chain: Sequence[Any]) -> str:
    """Return how a caller would write the transforms."""
    names = [f"{type(t).__name__}({', '.join(repr(value) for value in t.get_params().values())})" for t in chain]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"
