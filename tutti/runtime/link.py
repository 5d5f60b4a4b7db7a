"""``compress="auto"``: measure the very link that the updates take, then decide, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from tutti.comm.reduction import subtrees
from tutti.protocols import Communicator, Compressible, Learner
from tutti.transforms import prepare
from tutti.transforms.auto import CANDIDATES, SPEEDS, Chain, Link, Traffic, choose, name_of, seconds
from tutti.types import Array, Arrays, Cost, Event, Note, Schema, Seat

_BYTES = 1 << 18
_TRIES = 3
_SAMPLE = 1 << 18  # numbers that are encoded to measure how long it takes
_HOPE = 4.0  # what is measured may be so many times as fast as `SPEEDS`


class Asking(Protocol):
    """What is asked of the worker: see `tutti.protocols.Worker`."""

    seed: int
    n_shards: int
    schema: Schema
    start: Arrays | None

    @property
    def seat(self) -> Seat: ...
    def emit(self, event: Event) -> None: ...


def chosen_for(learner: Learner, comm: Communicator, worker: Asking) -> Chain:
    """Return what "auto" chooses for the learner's updates on this link; () where nothing pays.  All ranks call it."""
    if not isinstance(learner, Compressible):
        return ()  # the plan has said so
    if comm.size == 1 or comm.shares_memory:
        _tell(worker, "off: the ranks see the same memory, so nothing travels")
        return ()
    link = measure(comm)
    shared = learner.init(worker.schema, seed=worker.seed, start=worker.start)
    cost = learner.cost(worker.schema)
    seats = [np.frombuffer(own, np.int64).tolist() for own in comm.all_gather(np.array(worker.seat.shards).tobytes())]
    traffic = traffic_of(cost, seats, learner.traffic(shared))
    hoped = {name: (_HOPE * encode, _HOPE * decode) for name, (encode, decode) in SPEEDS.items()}
    chain: Chain = ()
    speeds = hoped
    if choose(traffic, link, hoped):
        speeds = _speeds(comm, np.dtype(f"f{cost.itemsize}"))
        chain = choose(traffic, link, speeds)
    plain = seconds(traffic, (), link)
    found = f"the link has {8e-6 * link.bandwidth:,.0f} Mbit/s and {1e3 * link.latency:.2g} ms"
    if chain:
        there = seconds(traffic, chain, link, speeds)
        _tell(worker, f"{name_of(chain)}: {found}; {1e3 * there:.3g} ms a round in place of {1e3 * plain:.3g} ms")
    else:
        _tell(worker, f"off: {found}; {1e3 * plain:.3g} ms a round as it is, and no transform makes that clearly less")
    return chain


def traffic_of(cost: Cost, seats: Sequence[Sequence[int]], sent: tuple[int, int] | None = None) -> Traffic:
    """Return what a round sends.

    Parameters
    ----------
    seats : the shards of each rank.   sent : bytes of one shard's update as it is and of what all send besides, where
        that is known.
    """
    n_shards = sum(map(len, seats))
    partials = max(len(subtrees(n_shards, seat)) for seat in seats)
    n_bytes, row_bytes = (cost.update_bytes, 0) if sent is None else sent
    n_values = cost.update_bytes // cost.itemsize
    return Traffic(n_values, cost.itemsize, tuple(map(len, seats)), partials, n_bytes, row_bytes)


def measure(comm: Communicator) -> Link:
    """Return latency and bandwidth of a communicator, the worst that any rank saw; all ranks call it together."""
    small, large = (_quickest(comm, bytes(n)) for n in (1, _BYTES))
    worst = np.max([np.frombuffer(times) for times in comm.all_gather(np.array([small, large]).tobytes())], axis=0)
    latency, whole = worst.tolist()
    return Link(latency, (comm.size - 1) * _BYTES / max(whole - latency, 1e-9))


def _quickest(comm: Communicator, payload: bytes) -> float:
    best = np.inf
    for _ in range(_TRIES):
        comm.barrier()
        began = perf_counter()
        comm.all_gather(payload)
        best = min(best, perf_counter() - began)
    return best


def _speeds(comm: Communicator, dtype: np.dtype[Any]) -> dict[str, tuple[float, float]]:
    """Return bytes a second of encoding and decoding, of the slowest rank."""
    rows = []
    for chain in CANDIDATES:
        prepare(chain)
        v = np.sin(np.arange(_SAMPLE, dtype=np.float64)).astype(dtype)
        payload, then = np.zeros(chain[0].n_bytes(len(v), v.dtype, chain[1:]), np.uint8), chain[1:]
        times: list[Array] = []
        for _ in range(_TRIES):
            began = perf_counter()
            chain[0].encode(v.copy(), payload, then)
            encoded = perf_counter()
            chain[0].decode(payload, v, then)
            times.append(np.array([encoded - began, perf_counter() - encoded]))
        rows.append(np.min(times, axis=0))
    slowest = np.max([np.frombuffer(p).reshape(-1, 2) for p in comm.all_gather(np.array(rows).tobytes())], axis=0)
    n_bytes = _SAMPLE * dtype.itemsize
    return {
        type(chain[0]).__name__: (n_bytes / encode, n_bytes / decode)
        for chain, (encode, decode) in zip(CANDIDATES, slowest.tolist(), strict=True)
    }


def _tell(worker: Asking, message: str) -> None:
    if worker.seat.rank == 0:
        worker.emit(Note(f'compress="auto": {message}'))
