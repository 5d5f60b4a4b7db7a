"""Ranks on several hosts: workers join a waiting caller over the network, both sides prove that they know one token.

The caller listens; `tutti worker --join HOST:PORT --token-file FILE` on another host lends it processes.  Programs,
events and results travel as JSON and raw arrays, never as code; data files are read where the workers are.
"""

from __future__ import annotations

import dataclasses
import queue
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tutti._board import BEAT, FINISHED, LIFE, LOST, RETURNED, STEP, Board
from tutti._frames import Message, PeerError
from tutti._spec import Spec, check_plain
from tutti.engines import _control as control
from tutti.engines import _lobby, _wire
from tutti.engines._common import LOOK_SECONDS, check, check_importable, exit_reason, lost_rank, silent, stopped
from tutti.engines._failure import failure_of
from tutti.engines._judge import Done, Exited, Judge, Raised, Returned, Sign, Silent, Verdict
from tutti.engines._lobby import Guest
from tutti.engines._waited import WaitedRun
from tutti.errors import ParameterError, RankLost, RunError
from tutti.protocols import Program
from tutti.types import Event, Fault, Note, Place, Plan, Seat

_GRACE_SECONDS = 1.5  # a worker's host stops its ranks within a second

_Heard = Raised | Returned | Exited | Event


@dataclass(frozen=True)
class Hosts(Spec):
    """Run ranks on several hosts, on workers that join.

    Parameters
    ----------
    n : number of workers, over all hosts.
    listen : "HOST:PORT", the address of this host that the others reach; port 0 lets the system choose.
    token_file : file with the secret that callers and workers share; it is created, for its owner alone, if it is not
        there.  Copy it to the other hosts.
    local : how many of the workers this host starts itself; if any, it starts the servers of a parameter server, too.
    timeout_seconds : a rank or host that shows no sign of life for so long is lost.
    start_timeout_seconds : how long it may take until ``n`` workers have joined and started.

    Example
    -------
    >>> Hosts(2, local=1).get_params()["listen"]
    '127.0.0.1:0'
    """

    n: int
    listen: str = "127.0.0.1:0"
    token_file: str = "tutti.token"
    local: int = 0
    timeout_seconds: float = 10.0
    start_timeout_seconds: float = 120.0

    transport = "tcp"

    def __post_init__(self) -> None:
        check(self.n, timeout_seconds=self.timeout_seconds, start_timeout_seconds=self.start_timeout_seconds)
        if self.n is None:
            raise ParameterError("n", None, "write the number of workers over all hosts")
        if self.timeout_seconds < 1:
            raise ParameterError("timeout_seconds", self.timeout_seconds, "write at least 1; a pulse comes every 0.2 s")
        if isinstance(self.local, bool) or not isinstance(self.local, int) or not 0 <= self.local <= self.n:
            raise ParameterError("local", self.local, f"write how many of the {self.n} workers this host starts")
        if not isinstance(self.token_file, str) or not self.token_file:
            raise ParameterError("token_file", self.token_file, "write the path of the token file")
        _lobby.split_address(str(self.listen), "listen")

    def places(self) -> Sequence[Place]:
        """Return one place per worker; which host a rank lives on is known when it has joined."""
        here = socket.gethostname()
        return [Place(here if i < self.local else "a worker that joins") for i in range(self.n)]

    def open(self) -> str:
        """Listen from now on, and return what to run on another host so that its workers join."""
        return self._lobby().command()

    def launch(self, program: Program, plan: Plan) -> HostRun:
        """Write the program down and return at once; it starts in ``results()``, when enough workers have joined.

        Raises
        ------
        InputError : if the program or its arguments cannot be sent to another host, code for example.
        """
        return HostRun(program, plan, self, self._lobby())

    def _lobby(self) -> _lobby.Lobby:
        return _lobby.lobby(self.listen, self.token_file, self.timeout_seconds)


def shutdown() -> None:
    """Send the workers that have joined away and stop listening.  Happens by itself at exit."""
    _lobby.shutdown()


class HostRun(WaitedRun):
    """A `tutti.protocols.Run` on workers that have joined."""

    def __init__(self, program: Program, plan: Plan, engine: Hosts, lobby: _lobby.Lobby) -> None:
        super().__init__(plan.size)
        check_importable(program)
        written = {"function": program.function, "arguments": dict(program.arguments)}
        check_plain(written)
        self._n_text, self._pieces = control.program(written)
        self._engine, self._plan, self._lobby = engine, plan, lobby
        self._name = secrets.token_hex(8)
        self.inbox: queue.SimpleQueue[tuple[Guest, Message | str]] = queue.SimpleQueue()
        self.board = Board(memoryview(bytearray(8 * Board.n_words(self.size))).cast("q"), self.size)
        self.board.clear()
        self.started = False
        self._guests: list[Guest] = []
        self._hosts: dict[int, Guest] = {}
        self._gone: dict[Guest, str] = {}
        self._restarts = plan.restarts if plan.tolerant else 0
        self._late: set[int] = set()  # whose seats went to hosts that came later
        self._began: dict[int, float] = {}
        self._offers: dict[int, list[Any]] = {}
        self._servers = [seat.rank for seat in plan.seats if seat.role == "server"]
        lobby.start_local(engine.local + len(self._servers) if engine.local else 0)

    def _wait(self, watch: Callable[[Event], None] | None) -> Verdict:
        self._gather()
        return self._begin() or self._watch(watch)

    def _end(self) -> None:
        self._tell(control.ABORT)
        deadline = self._clock.now() + _GRACE_SECONDS
        waited = self._away if self.started else set()
        while waited and self._clock.now() < deadline:
            self._listen(deadline - self._clock.now())
        self._leave([guest for guest in self._guests if waited & set(guest.ranks)])

    def _gather(self) -> None:
        """Wait until enough workers have joined; those of this host come first, and with them the servers."""
        here = range(min(self._engine.local, self.size))
        ranks = list(dict.fromkeys([*here, *(self._servers if here else ()), *range(self.size)]))
        deadline = self._clock.now() + self._engine.start_timeout_seconds
        told = False
        while True:
            self._guests = self._lobby.take(self, ranks, self._engine.timeout_seconds, LOOK_SECONDS)
            if self._guests:
                self._hosts = {rank: guest for guest in self._guests for rank in guest.ranks}
                return
            if self.board.aborted():
                raise stopped()
            missing = max(self.size - self._lobby.joined(), 0)
            if self._clock.now() > deadline:
                seconds = self._engine.start_timeout_seconds
                raise RunError(
                    f"{missing} of {self.size} workers have not joined within {seconds:g} s; on the other hosts run: "
                    f"{self._lobby.command()}"
                )
            if not told and missing > 0 and self._engine.local < self.size:
                told = True
                print(f"tutti: waiting for workers; run on the other hosts: {self._lobby.command()}", file=sys.stderr)

    def _begin(self) -> Verdict | None:
        """Send everybody the program, then tell all of them where all of them listen."""
        for guest in self._guests:
            self._seat(guest)
        deadline = self._clock.now() + self._engine.start_timeout_seconds
        while len(self._offers) < self.size:
            for fact in self._listen(LOOK_SECONDS):
                if isinstance(fact, Exited):
                    return fact
            if self.board.aborted():
                raise stopped()
            if self._clock.now() > deadline:
                rank = min(self._away - self._offers.keys())
                return Silent(rank, self._engine.start_timeout_seconds)
        for guest in self._guests:
            self._start(guest)
        self.started = True
        return None

    def _seat(self, guest: Guest) -> None:
        """Tell a host which ranks it has and what they run; it will say where they listen."""
        order = {
            "run": self._name,
            "size": self.size,
            "n_text": self._n_text,
            "timeout_seconds": self._engine.timeout_seconds,
            "start_timeout_seconds": self._engine.start_timeout_seconds,
            "restarts": self._restarts,
        }
        seats = [self._seat_of(rank) for rank in guest.ranks]
        self._lobby.post(guest, control.SEATS, {**order, "seats": seats})
        self._lobby.post(guest, control.PROGRAM, pieces=self._pieces)

    def _seat_of(self, rank: int) -> Seat:
        seat = self._plan.seats[rank]
        place = dataclasses.replace(seat.place, host=self._hosts[rank].host)
        return dataclasses.replace(seat, place=place, life=self.board.get(rank, LIFE))

    def _start(self, guest: Guest) -> None:
        """Have the ranks of a host run."""
        addresses = [self._offers[rank][:2] for rank in range(self.size)]
        hosts = [list(guest.ranks) for guest in self._guests if guest not in self._gone]
        self._began |= dict.fromkeys(guest.ranks, self._clock.now())
        self._lobby.post(guest, control.START, {"addresses": addresses, "hosts": hosts})
        guest.started = True

    def _watch(self, watch: Callable[[Event], None] | None) -> Any:
        judge = Judge(self.size, self._engine.timeout_seconds, self._clock.now(), look_seconds=2 * LOOK_SECONDS)
        told = False

        def tell(event: Event) -> None:
            if watch is not None:
                watch(event)
                if self._over:
                    raise stopped()

        while True:
            for fact in self._listen(min(LOOK_SECONDS, self._engine.timeout_seconds / 4)):
                if isinstance(fact, Raised | Returned | Exited):
                    judge.hear(fact)
                else:
                    tell(fact)
            if self.board.aborted() and not told:
                told = True
                self._tell(control.ABORT)
            for rank in self._away:
                beat = self.board.get(rank, BEAT)
                judge.hear(Sign(rank, beat, excused=not beat or self._hosts[rank].line.receiving))
            now = self._clock.now()
            while (verdict := judge.look(now) or self._not_started(now)) is not None:
                fault = self._without(judge, verdict)
                if fault is None:
                    return verdict
                tell(fault)
            for note in self._join(judge):
                tell(note)

    def _not_started(self, now: float) -> Silent | None:
        for rank in self._away & self._began.keys():
            seconds = now - self._began[rank]
            if seconds > self._engine.start_timeout_seconds and not self.board.get(rank, BEAT):
                return Silent(rank, seconds)
        return None

    def _without(self, judge: Judge, verdict: Verdict) -> Fault | None:
        """Let a tolerant run go on without a rank, or with another process of its host; None if that cannot be."""
        cut_off = isinstance(verdict, Raised) and verdict.failure["unreachable"]
        if isinstance(verdict, Done) or not self._plan.tolerant or (isinstance(verdict, Raised) and not cut_off):
            return None
        rank = verdict.rank
        again = self._restarts > 0 and not cut_off and self._hosts[rank] not in self._gone
        if rank in self._servers and not again:
            return None  # what it has is nowhere else
        if not judge.pardon(rank, again=again):
            return None
        error = self._error(verdict, lost=True)
        assert isinstance(error, RankLost)
        if again:
            self._restarts -= 1
            self._expect(rank)
            self._began[rank] = self._clock.now()
            self._lobby.post(self._hosts[rank], control.AGAIN, {"seat": self._seat_of(rank)})
        else:
            self._lose(rank)
        return lost_rank(error, again)

    def _expect(self, rank: int) -> None:
        self.board.revive(rank)
        self._away.add(rank)

    def _lose(self, rank: int) -> None:
        self._kill(rank)
        self._away.discard(rank)
        self._late.discard(rank)
        self.board.settle(rank, LOST)

    def _join(self, judge: Judge) -> list[Note]:
        """Give the seats of workers whose hosts are gone to hosts that have come since, while there is work."""
        if any(self.board.returned(rank) for rank in self._servers or range(self.size)):
            for rank in [rank for rank in self._late if not self.board.get(rank, FINISHED)]:
                if judge.pardon(rank, again=False):  # the servers have not waited for it
                    self._lose(rank)
            return []
        vacant = [rank for rank in range(self.size) if self.board.lost(rank) and self._hosts[rank] in self._gone]
        if not vacant or not self._plan.restarts or self.board.aborted():
            return []
        found = self._lobby.take(self, vacant, self._engine.timeout_seconds, 0.0)
        for guest in found:
            self._guests.append(guest)
            for rank in guest.ranks:
                self._hosts[rank] = guest
                self._late.add(rank)
                self._began[rank] = self._clock.now()
                judge.rejoin(rank)
                self._expect(rank)
            self._seat(guest)
        return [Note(f"rank {rank} goes on at host {guest.host}") for guest in found for rank in guest.ranks]

    def _listen(self, seconds: float) -> list[_Heard]:
        """Wait for the guests; return what happened and the events they emitted."""
        heard: list[_Heard] = []
        try:
            guest, message = self.inbox.get(timeout=max(seconds, 1e-3))
            while True:
                heard += self._hear(guest, message)
                guest, message = self.inbox.get_nowait()
        except queue.Empty:
            self._away -= {fact.rank for fact in heard if isinstance(fact, Raised | Returned | Exited)}
            return heard

    def _hear(self, guest: Guest, message: Message | str) -> list[_Heard]:
        if isinstance(message, str):
            self._gone[guest] = message
            return [Exited(rank, None) for rank in guest.ranks if rank in self._away]
        try:
            return self._take(guest, message)
        except (PeerError, KeyError, TypeError, ValueError) as error:
            self._lobby.expel(guest, f"it sent what cannot be understood ({error})")
            self._gone[guest] = f"it sent what cannot be understood ({error})"
            return [Exited(rank, None) for rank in guest.ranks if rank in self._away]

    def _take(self, guest: Guest, message: Message) -> list[_Heard]:
        if message.kind == control.ABORT:
            self.board.abort()
        elif message.kind == control.OFFER:
            offer = control.read(message)
            if offer["run"] == self._name:
                self._offers |= {rank: offer["ranks"][rank] for rank in guest.ranks}
                if self.started:
                    self._start(guest)
        elif message.kind == control.EXITED:
            gone = control.read(message)
            if gone["life"] < self.board.get(_own(guest, gone["rank"]), LIFE):
                return []  # another process has its seat already
            return [Exited(_own(guest, gone["rank"]), gone["code"])]
        elif message.kind == control.SAID:
            rank, kind, value = control.heard(message)
            return [self._said(_own(guest, rank), kind, value)]
        return []

    def _said(self, rank: int, kind: int, value: Any) -> _Heard:
        if kind == _wire.EVENT:
            return cast(Event, value)
        if kind == _wire.VALUE:
            self._values[rank] = value
            self.board.settle(rank, RETURNED)
            return Returned(rank)
        return Raised(rank, value["secondary"], value)

    def _error(self, verdict: Raised | Exited | Silent, *, lost: bool = False) -> Exception:
        rank, guest = verdict.rank, self._hosts[verdict.rank]
        pid = self._offers[rank][2] if rank in self._offers else guest.pid
        where = (rank, guest.host, pid, self.board.get(rank, STEP))
        if isinstance(verdict, Silent):
            return silent(*where, verdict.seconds, "" if self.board.get(rank, BEAT) else " after it was asked to start")
        if isinstance(verdict, Exited):
            if guest in self._gone:
                return RankLost(*where, f"the connection to its host was lost: {self._gone[guest]}")
            return RankLost(*where, exit_reason(verdict.code))
        return RankLost(*where, verdict.failure["what"]) if lost else failure_of(verdict, where)

    def _tell(self, kind: int, value: Any = None) -> None:
        for guest in self._guests:
            if guest not in self._gone:
                self._lobby.post(guest, kind, value)

    def _kill(self, rank: int) -> None:
        """Have a rank ended that will not come back by itself, a frozen one for example."""
        guest = self._hosts[rank]
        if guest not in self._gone:
            self._lobby.post(guest, control.KILL, {"rank": rank})

    def _leave(self, broken: Sequence[Guest] = ()) -> None:
        here = [guest for guest in self._guests if guest not in self._gone]
        self._lobby.give_back(here, [guest for guest in here if guest in broken])


def _own(guest: Guest, rank: int) -> int:
    """Return a rank that a guest speaks of, if it is one of its own."""
    if rank not in guest.ranks:
        raise ValueError(f"it spoke of rank {rank}, which is not its own")
    return rank
