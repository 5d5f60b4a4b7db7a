"""A direct reduce-scatter and all-gather of partial sums, for ranks that see no common memory; bytes are what travels.

Every rank adds the shards it holds as far as the canonical tree allows without those of others: one partial sum per
maximal complete subtree.  Of each it sends to every rank the stripe of columns which that one adds up, in the order of
the tree; the stripes are gathered.  So the bits are those of the tree for any number of ranks and any deal of shards.

Columns go in buckets: while some travel, the partial sums of the next are added.  How bytes travel is left to the
subclasses, and whether they may set out before the ranks have agreed on the call (`Plan`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, sleep
from typing import Any, NoReturn

import numpy as np

from tutti.comm._rank import BARRIER, DTYPES, GATHER, REDUCE, SHARE, RankComm
from tutti.comm.reduction import subtrees, tree_sum
from tutti.errors import Aborted, Unreachable
from tutti.protocols import Link
from tutti.types import Array

SMALL = 1 << 16  # bytes of all shards together; below, every rank gets all arrays and adds them itself
_LEFT_SECONDS = 0.2  # a rank that returns breaks its connections before its engine can say that it has returned
_WORDS = 8  # of a record
_MASK = 6  # the word that says which shards a rank holds, if there are at most 62
_MASKED = 62

What = tuple[int, np.dtype[Any]]
Holders = list[list[int]]
Agreed = tuple[int, np.dtype[Any], Holders]


class PartialComm(RankComm, ABC):
    """A `tutti.protocols.Streaming` over whatever carries bytes; see the module for the algorithm.

    Parameters
    ----------
    link : what the engine gave to this rank.
    """

    shares_memory = False

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._slots: dict[tuple[int, int, int], Array] = {}
        self._results: dict[tuple[int, int], Array] = {}
        self._open = False
        self._n_plans = 0
        self._dealt: dict[int, tuple[int, Holders]] = {}  # by number of shards: number of the plan, who held them

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._agree(BARRIER)

    def slots(self, n_shards: int, length: int, dtype: Any) -> Array:
        """Return rows (n_shards, length) for the shards of this rank; the same ones every time."""
        dtype = np.dtype(dtype)
        self._check_dtype(dtype)
        key = (n_shards, length, dtype.num)
        if key not in self._slots:
            self._slots[key] = np.zeros((n_shards, length), dtype)  # what is not touched costs no memory
        return self._slots[key]

    def all_reduce(self, parts: Mapping[int, Array], n_shards: int) -> Array:
        """Sum one array (length,) per shard in the canonical tree; see `tutti.protocols.Communicator`."""
        total = self.begin(parts, n_shards)
        total.ready(0, total.length)
        return total.finish()

    def begin(self, parts: Mapping[int, Array], n_shards: int) -> Sum:
        """Begin an `all_reduce` whose columns are not all computed yet.

        Every rank then calls ``ready(start, stop)`` on what is returned for the same ranges in the same order, each
        column once, as soon as these columns of its parts are final: they travel while the rest is computed.  That
        the ranks do not sum the same may be found in any of these calls.  ``finish()`` returns what `all_reduce`
        returns, with the same bits.
        """
        self._enter()
        if self._open:
            raise ValueError("begin: the sum before has not been finished; call its finish() first")
        plan = self._plan(REDUCE, parts, n_shards)
        self._open = True
        return self._sum(parts, plan)

    def share(self, parts: Mapping[int, Array], n_shards: int) -> Sequence[Array]:
        """Return the arrays of all shards, by shard id, as copies; see `tutti.protocols.Communicator`."""
        self._enter()
        views = [row.view() for row in self._all_rows(parts, self._plan(SHARE, parts, n_shards))]
        for view in views:
            view.flags.writeable = False
        return views

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return the bytes that every rank gave, by rank."""
        said = self._ask(GATHER, len(payload))
        if self._size == 1:
            return [bytes(payload)]
        self._sent += len(payload)
        mine = np.frombuffer(payload, np.uint8)
        return [came.tobytes() for came in self._pieces([mine], lambda: [record[1] for record in said()])]

    def abort(self) -> None:
        """Wake every rank that waits, which then raises `Aborted`."""
        super().abort()
        self._leave()

    def close(self) -> None:
        """Let go of the others; the communicator cannot be used afterwards."""
        self._leave()
        self._slots.clear()
        self._results.clear()

    @abstractmethod
    def _gather_into(self, out: Array, mine: Array) -> Callable[[], None]:
        """Start to give all ranks the bytes ``mine``; ``out`` gets those of all, by rank.  What is returned waits."""

    @abstractmethod
    def _sum(self, parts: Mapping[int, Array], plan: Plan) -> Sum:
        """Return what `begin` returns."""

    @abstractmethod
    def _leave(self) -> None:
        """Break the connections to the others, for good."""

    def _result(self, length: int, dtype: np.dtype[Any]) -> Array:
        key = (length, dtype.num)
        if key not in self._results:
            self._results[key] = np.empty(length, dtype)
        return self._results[key]

    def _plan(self, call: int, parts: Mapping[int, Array], n_shards: int) -> Plan:
        """Say what this rank is about to do; what is returned knows what all do."""
        what = (-1, -1, -1)
        self._n_plans += 1
        number, (_, before) = self._n_plans, self._dealt.get(n_shards, (0, None))
        if parts:
            first = next(iter(parts.values()))
            self._check(call, parts, n_shards, first)
            self._check_dtype(first.dtype)
            what = (len(first), first.dtype.num, 0)
        masked = n_shards <= _MASKED
        mask = sum(1 << shard for shard in parts) if masked else 0
        said = self._ask(call, n_shards, *what, len(parts), mask)

        def agree() -> Agreed:
            records = said()
            length, dtype, _ = self._same_parts(call, n_shards, what, records)
            if masked:
                holders = [[s for s in range(n_shards) if record[_MASK] >> s & 1] for record in records]
            else:
                mine = np.full(max(record[5] for record in records), -1, np.int64)
                mine[: len(parts)] = sorted(parts)
                ids = self._gathered(mine.view(np.uint8)).view(np.int64).tolist()
                holders = [[s for s in row if s >= 0] for row in ids]
            held = {s for holder in holders for s in holder}
            if len(held) != n_shards:
                self._missing(call, [s for s in range(n_shards) if s not in held])
            if number > self._dealt.get(n_shards, (0, holders))[0]:
                self._dealt[n_shards] = number, holders
            return length, DTYPES[dtype], holders

        own = (what[0], DTYPES[what[1]]) if parts and masked else None
        return Plan(n_shards, agree, own, before)

    def _all_rows(self, parts: Mapping[int, Array], plan: Plan) -> list[Array]:
        """Return the arrays of all shards, by shard id."""
        if self._size == 1:
            plan.agree()
            return [parts[shard] for shard in range(plan.n_shards)]
        row = plan.length * plan.dtype.itemsize
        self._sent += len(parts) * row
        mine = [np.ascontiguousarray(parts[shard]).view(np.uint8) for shard in sorted(parts)]
        rows: list[Array] = [np.empty(0, plan.dtype)] * plan.n_shards
        blocks = self._pieces(mine, lambda: [len(holder) * row for holder in plan.holders])
        for block, holder in zip(blocks, plan.holders, strict=True):
            for i, shard in enumerate(holder):
                rows[shard] = block[i * row : (i + 1) * row].view(plan.dtype)
        return rows

    def _ask(self, call: int, *what: int) -> Callable[[], list[list[int]]]:
        """Say what this rank is about to do; what is returned waits for what each rank said, and returns it."""
        self._enter()
        mine = np.zeros(_WORDS, np.int64)
        mine[: 1 + len(what)] = (call, *what)
        if self._size == 1:
            return lambda: [mine.tolist()]
        out = np.empty((self._size, _WORDS), np.int64)
        end = self._gather_into(out.reshape(-1).view(np.uint8), mine.view(np.uint8))

        def said() -> list[list[int]]:
            end()
            records: list[list[int]] = out.tolist()
            self._same_call(call, records)
            return records

        return said

    def _agree(self, call: int, *what: int) -> list[list[int]]:
        """Barrier at which every rank says what it is about to do; returns what each one said, by rank."""
        return self._ask(call, *what)()

    def _pieces(self, mine: Sequence[Array], lengths: Callable[[], Sequence[int]]) -> list[Array]:
        """Return the bytes that each rank gives, by rank; ``lengths()`` waits until it is known how many they are."""
        longest = max(sizes := lengths())
        given = np.zeros(longest, np.uint8)
        at = 0
        for piece in mine:
            given[at : at + len(piece)] = piece
            at += len(piece)
        gathered = self._gathered(given) if longest else given.reshape(1, 0).repeat(self._size, axis=0)
        return [gathered[rank, :n] for rank, n in enumerate(sizes)]

    def _gathered(self, mine: Array) -> Array:
        """Return the bytes (size, n) of all ranks."""
        out = np.empty((self._size, len(mine)), np.uint8)
        self._gather_into(out.reshape(-1), mine)()
        return out

    def _interrupted(self) -> NoReturn:
        self._leave()
        super()._interrupted()

    def _broken(self, message: str) -> NoReturn:
        self._leave()
        super()._broken(message)

    def _others(self) -> list[int]:
        return [rank for rank in range(self._size) if rank != self._rank]

    def _unconnected(self, who: str, reason: str, *, cut: bool = False) -> NoReturn:
        """Another rank is gone; who it is and why is for the engine to say, unless this rank alone knows: ``cut``."""
        deadline = perf_counter() + _LEFT_SECONDS
        while (lost := self._lost(self._others())) is None and perf_counter() < deadline:
            sleep(1e-3)
        if lost is not None:
            self._give_up(lost)
        self._link.abort()
        self._leave()
        if cut:
            raise Unreachable(f"{who} is cut off: {reason}; look at the network between their hosts")
        raise Aborted(f"rank {self._rank}: the connection to {who} broke: {reason}")


class Plan:
    """What the ranks are about to do; what the others say of it may be on its way until it is asked for.

    Parameters
    ----------
    agree : waits for it; returns length and dtype of the parts, and the shards that each rank holds.
    own : length and dtype of this rank's parts, None if it has none.
    before : who held which shards in the last call with as many shards, the same on all ranks; None if there was none.
    """

    def __init__(self, n_shards: int, agree: Callable[[], Agreed], own: What | None, before: Holders | None) -> None:
        self.n_shards, self.before = n_shards, before
        self._agree, self._own, self._agreed = agree, own, None

    _agreed: Agreed | None

    @property
    def agreed(self) -> bool:
        """True if `agree` does not wait."""
        return self._agreed is not None

    def agree(self) -> Agreed:
        """Return length, dtype and holders when every rank has said what it is about to do, and it is the same."""
        if self._agreed is None:
            self._agreed = self._agree()
        return self._agreed

    @property
    def length(self) -> int:
        return (self._own or self.agree())[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return (self._own or self.agree())[1]

    @property
    def holders(self) -> Holders:
        return self.agree()[2]


class Sum(ABC):
    """A sum on its way; see `PartialComm.begin`.

    A bucket of columns is sent (`_send`), added (`_add`) and collected (`_collect`) in this order; of as many as
    ``ahead`` says the next step is put off until later ones have been sent.
    """

    ahead = 1
    bucket = 1 << 22  # bytes of a row that travel together

    def __init__(self, comm: PartialComm, parts: Mapping[int, Array], plan: Plan) -> None:
        self._comm, self._parts, self._plan = comm, parts, plan
        self.length, self._n, self._dtype = plan.length, plan.n_shards, plan.dtype
        self._ready = 0
        self._whole = comm.size == 1 or self._n * self.length * self._dtype.itemsize <= SMALL
        self._result = comm._result(self.length, self._dtype)
        self._travelling: deque[Any] = deque()  # buckets that were sent and are not added yet
        self._gathering: deque[Any] = deque()  # buckets that were added and are not collected yet

    def _nodes(self) -> list[list[tuple[int, int]]]:
        """Return the partial sums that each rank sends."""
        return [subtrees(self._n, holder) for holder in self._plan.holders]

    def ready(self, start: int, stop: int) -> None:
        """Say that columns start:stop of this rank's parts are final."""
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"ready: columns {start}:{stop} are not within 0:{self.length}")
        self._ready += stop - start
        if self._whole:
            return
        step = self.bucket // self._dtype.itemsize
        for lo in range(start, stop, step):
            self._send(lo, min(lo + step, stop))
            while len(self._travelling) > self.ahead:
                self._add()
            while len(self._gathering) > self.ahead:
                self._collect()

    def finish(self) -> Array:
        """Return the sum, read-only, valid until this rank's next sum."""
        comm = self._comm
        if self._ready != self.length:
            raise ValueError(f"finish: {self._ready} columns of {self.length} were said to be ready, each once")
        if self._whole:
            tree_sum(comm._all_rows(self._parts, self._plan), self._result)
        while self._travelling:
            self._add()
        while self._gathering:
            self._collect()
        comm._open = False
        view = self._result.view()
        view.flags.writeable = False
        return view

    def _width(self, lo: int, hi: int) -> int:
        """Columns of a stripe: the same for every rank, the last ones shorter."""
        return -(-(hi - lo) // (64 * self._comm.size)) * 64

    @abstractmethod
    def _send(self, lo: int, hi: int) -> None:
        """Add what can be added here, and send each rank its stripe of it."""

    @abstractmethod
    def _add(self) -> None:
        """Add the partial sums of all ranks over the stripe of this one, and send it to all."""

    @abstractmethod
    def _collect(self) -> None:
        """See to it that the result has the stripes of all ranks."""
