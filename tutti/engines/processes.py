"""Ranks as processes of this host: Python code runs truly side by side, a crash of a rank is an error and not the end.

Large arrays lie once in memory and are mapped by every worker.  Workers are started once and wait for the next fit; a
rank that dies is seen at once (by its descriptor), one that freezes after ``timeout_seconds`` (by its pulse).
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from tutti._arena import Arena, ShmLink
from tutti._board import BEAT, LOST, RETURNED, STEP, Board
from tutti._spec import Spec
from tutti.engines import _wire
from tutti.engines._common import (
    LOOK_SECONDS,
    check,
    check_importable,
    exit_reason,
    lost_rank,
    places,
    silent,
    stopped,
)
from tutti.engines._failure import failure_of
from tutti.engines._judge import Exited, Judge, Raised, Returned, Sign, Silent, Verdict
from tutti.engines._pool import POOL
from tutti.engines._ranks import Gone, Ranks
from tutti.engines._waited import WaitedRun
from tutti.errors import ParameterError, RankLost
from tutti.protocols import Link, Program
from tutti.types import Event, Fault, Place, Plan, Seat

_GRACE_SECONDS = 1.0  # a stopped rank that has not come back by then is killed
_TRANSPORTS = ("shm", "tcp", "gloo", "nccl")

_Heard = Raised | Returned | Exited | Event


@dataclass(frozen=True)
class Processes(Spec):
    """Run ranks as processes of this host.

    Parameters
    ----------
    n : number of workers; None means one per core this process may use.
    timeout_seconds : a rank that shows no sign of life for so long is lost.  Python code that keeps the interpreter
        to itself (a long call into C that does not let go of it) looks like that.
    start_timeout_seconds : how long a new worker process may take to start.
    transport : how arrays travel: "shm" (shared memory), "tcp" (encrypted sockets, as between hosts), or through
        torch.distributed with "gloo" (sockets) or "nccl" (a GPU for each worker).  The bits are the same.

    Example
    -------
    >>> Processes(2).get_params()
    {'n': 2, 'timeout_seconds': 10.0, 'start_timeout_seconds': 60.0, 'transport': 'shm'}
    """

    n: int | None = None
    timeout_seconds: float = 10.0
    start_timeout_seconds: float = 60.0
    transport: str = "shm"

    def __post_init__(self) -> None:
        check(self.n, timeout_seconds=self.timeout_seconds, start_timeout_seconds=self.start_timeout_seconds)
        if self.timeout_seconds < 1:
            raise ParameterError("timeout_seconds", self.timeout_seconds, "write at least 1; a pulse comes every 0.2 s")
        if self.transport not in _TRANSPORTS:
            raise ParameterError("transport", self.transport, f"write one of {', '.join(_TRANSPORTS)}")

    def places(self) -> Sequence[Place]:
        """Return one place per worker on this host."""
        return places(self.n)

    def launch(self, program: Program, plan: Plan) -> ProcessRun:
        """Start the program on every seat of the plan and return at once.

        Raises
        ------
        InputError : if the program or its arguments cannot be sent to another process.
        """
        return ProcessRun(program, plan, self)


def shutdown() -> None:
    """End the idle worker processes; the next fit starts new ones.  Happens by itself at exit."""
    POOL.shutdown(busy=False)


def worker_pids() -> list[int]:
    """Return the process ids of all workers of this process, idle or not."""
    return POOL.pids()


def links(size: int, transport: str = "shm") -> list[Link]:
    """Return the links of ``size`` ranks in this very process (to test a communicator from threads)."""
    fd = _wire.anonymous_memory(1 << 40)
    try:
        arenas = [Arena(os.dup(fd)) for _ in range(size)]
    finally:
        os.close(fd)
    boards = [Board(arena.words(size), size) for arena in arenas]
    boards[0].clear()
    ranks = enumerate(zip(arenas, boards, strict=True))
    return [ShmLink(arena, board, rank, size, transport) for rank, (arena, board) in ranks]


class ProcessRun(WaitedRun):
    """A `tutti.protocols.Run` on processes."""

    def __init__(self, program: Program, plan: Plan, engine: Processes) -> None:
        super().__init__(plan.size)
        check_importable(program)
        self._engine, self._plan = engine, plan
        self._lost: set[int] = set()
        self._restarts = plan.restarts if plan.tolerant else 0
        self._parcel: _wire.Parcel | None
        self._parcel = _wire.pack({"function": program.function, "arguments": dict(program.arguments)})
        try:
            self._ranks = Ranks(range(self.size), self.size)
            self.board = self._ranks.board
            self._began = [self._clock.now()] * self.size
            try:
                for seat in plan.seats:
                    self._seat(seat)
            except BaseException:
                self.stop()
                raise
        finally:
            if not self._restarts:
                self._close_parcel()

    def _kill(self, rank: int) -> None:
        self._ranks.kill(rank)
        self._away.discard(rank)

    def _leave(self) -> None:
        self._close_parcel()
        self._ranks.close([rank for rank in range(self.size) if rank not in self._lost])

    def _end(self) -> None:
        deadline = self._clock.now() + _GRACE_SECONDS
        try:
            while self._away and self._clock.now() < deadline:
                self._listen(deadline - self._clock.now())
        finally:
            self._close_parcel()
            self._ranks.close([rank for rank in range(self.size) if rank not in self._away])

    def _seat(self, seat: Seat) -> None:
        """Tell the worker of a seat who it is and what to run."""
        assert self._parcel is not None
        order = {"seat": seat, "size": self.size, "transport": self._engine.transport}
        self._ranks.begin(seat.rank, order, self._parcel)

    def _close_parcel(self) -> None:
        if self._parcel is not None:
            self._parcel.close()
            self._parcel = None

    def _wait(self, watch: Callable[[Event], None] | None) -> Verdict:
        judge = Judge(self.size, self._engine.timeout_seconds, self._clock.now(), look_seconds=2 * LOOK_SECONDS)
        look = min(LOOK_SECONDS, self._engine.timeout_seconds / 4)
        while True:
            for fact in self._listen(look):
                if isinstance(fact, Raised | Returned | Exited):
                    judge.hear(fact)
                elif watch is not None:
                    watch(fact)
                    if self._over:
                        raise stopped()
            for rank in self._away:
                judge.hear(Sign(rank, self.board.get(rank, BEAT), excused=not self._ranks.members[rank].ready))
            now = self._clock.now()
            while (verdict := judge.look(now) or self._not_started(now)) is not None:
                fault = self._without(judge, verdict)
                if fault is None:
                    return verdict
                if watch is not None:
                    watch(fault)
                    if self._over:
                        raise stopped()

    def _not_started(self, now: float) -> Silent | None:
        for rank in self._away:
            if not self._ranks.members[rank].ready and now - self._began[rank] > self._engine.start_timeout_seconds:
                return Silent(rank, now - self._began[rank])
        return None

    def _without(self, judge: Judge, verdict: Verdict) -> Fault | None:
        """Let a tolerant run go on without a rank, or with another process in its place; None if that cannot be.

        The old process has ended before anybody is told, so it writes nothing any more.
        """
        if not (self._plan.tolerant and isinstance(verdict, Exited | Silent)):
            return None
        rank, again = verdict.rank, self._restarts > 0
        if not judge.pardon(rank, again=again):
            return None
        error = self._error(verdict)
        assert isinstance(error, RankLost)
        self._kill(rank)
        if again:
            self._restarts -= 1
            self._ranks.renew(rank)
            self._began[rank] = self._clock.now()
            self._away.add(rank)
            self._seat(dataclasses.replace(self._plan.seats[rank], life=self.board.revive(rank)))
        else:
            self._lost.add(rank)
            self.board.settle(rank, LOST)
        return lost_rank(error, again)

    def _listen(self, seconds: float) -> list[_Heard]:
        """Wait for the ranks; return what happened and the events they emitted."""
        heard: list[_Heard] = []
        for rank, said in self._ranks.listen(seconds):
            if isinstance(said, Gone):
                heard.append(Exited(rank, said.code))
            elif not self._over:
                heard.append(self._take(rank, said))
            else:
                said.close()
                heard += [] if said.kind == _wire.EVENT else [Returned(rank)]
        self._away -= {fact.rank for fact in heard if isinstance(fact, Raised | Returned | Exited)}
        return heard

    def _take(self, rank: int, frame: _wire.Frame) -> _Heard:
        value = frame.value(share=False)
        if frame.kind == _wire.EVENT:
            return cast(Event, value)
        if frame.kind == _wire.VALUE:
            self._values[rank] = value
            self.board.settle(rank, RETURNED)
            return Returned(rank)
        return Raised(rank, value["secondary"], value)

    def _error(self, verdict: Raised | Exited | Silent) -> Exception:
        rank, member = verdict.rank, self._ranks.members[verdict.rank]
        where = (rank, socket.gethostname(), member.pid, self.board.get(rank, STEP))
        if isinstance(verdict, Silent):
            more = "" if member.ready else " after its process was started"
            return silent(*where, verdict.seconds, more)
        if isinstance(verdict, Exited):
            return RankLost(*where, exit_reason(verdict.code, "" if member.ready else " while it started"))
        return failure_of(verdict, where)
