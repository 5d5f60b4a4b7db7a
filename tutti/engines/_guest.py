"""What `tutti worker` does: joins a waiting caller and lends it processes of this host, one run after the other.

This process computes nothing.  It holds the one connection to the caller, passes on what comes and goes, and keeps the
words of the run in the memory of this host; so a rank that is killed or freezes here is seen at once.  A caller that
falls silent is gone: the ranks are stopped and nothing stays behind.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from tutti._frames import Channel, Message, PeerError, connect, listen
from tutti._secure import Credentials, Token, forbid_core_dumps
from tutti.engines import _control as control
from tutti.engines import _wire
from tutti.engines._pool import POOL
from tutti.engines._ranks import Gone, Ranks
from tutti.errors import RunError
from tutti.types import Seat

_GRACE_SECONDS = 1.0  # a stopped rank that has not come back by then is killed
_TRY_SECONDS = 0.5  # between two tries to reach the caller
_FIRST_SECONDS = 30.0  # silence that is forgiven until the caller has said how much it forgives


def version() -> str:
    """Version of the library, which callers and workers must share."""
    try:
        return f"{metadata.version('tutti')}/{control.VERSION}"
    except metadata.PackageNotFoundError:
        return f"unknown/{control.VERSION}"


def serve(
    host: str,
    port: int,
    token: Token,
    *,
    workers: int = 1,
    wait_seconds: float = 60.0,
    once: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Lend ``workers`` processes to the caller at host:port until it leaves, or for one run.

    Parameters
    ----------
    wait_seconds : how long a caller may take to be there, and to be there again after the connection was lost.

    Raises
    ------
    RunError : no caller came in that time, or it refused this worker.
    """
    forbid_core_dumps()
    credentials = Credentials(token)
    while True:
        channel = _reach(host, port, credentials, wait_seconds, say)
        session, lost = _Session(channel, token, workers, say), False
        try:
            session.serve(once)
            return
        except PeerError as error:
            lost = True
            say(f"the connection to the caller was lost ({error.reason})")
            if once:
                raise RunError(f"the connection to the caller at {host}:{port} was lost: {error.reason}") from error
        finally:
            session.close(None if lost else control.BYE)
            POOL.shutdown(busy=True)


def _reach(host: str, port: int, credentials: Credentials, wait_seconds: float, say: Callable[[str], None]) -> Channel:
    deadline, told = time.monotonic() + wait_seconds, False
    while True:
        left = deadline - time.monotonic()
        try:
            return connect((host, port), credentials, seconds=max(left, _TRY_SECONDS), peer=f"caller {host}:{port}")
        except PeerError as error:
            if "prove" in error.reason:
                raise RunError(
                    f"{host}:{port} is not the caller of this token file ({error.reason}); copy the token file of the "
                    "caller to this host, and compare the addresses"
                ) from error
            if time.monotonic() + _TRY_SECONDS > deadline:
                raise RunError(f"no caller at {host}:{port} within {wait_seconds:g} s ({error.reason})") from error
            if not told:
                say(f"waiting for a caller at {host}:{port}, at most {wait_seconds:g} s")
                told = True
        time.sleep(_TRY_SECONDS)


class _Session:
    """One connection to a caller."""

    def __init__(self, channel: Channel, token: Token, workers: int, say: Callable[[str], None]) -> None:
        self._line = control.Line(channel, _FIRST_SECONDS, self._room)
        self._line.trusted = True
        self._token, self._workers, self._say = token, workers, say
        self._run: _Part | None = None
        self._memory: tuple[int, mmap.mmap] | None = None

    def serve(self, once: bool) -> None:
        """Return when the caller leaves, or after the first run."""
        hello = {"version": version(), "host": socket.gethostname(), "pid": os.getpid(), "workers": self._workers}
        self._line.post(control.HELLO, hello)
        while True:
            for message in self._line.turn():
                if message.kind == control.BYE:
                    self._say("the caller has left")
                    return
                if message.kind == control.OVER and once:
                    return
                self._obey(message)
            self._wait()

    def close(self, last: int | None) -> None:
        """Stop the ranks and leave, with a last message."""
        if self._run is not None:
            self._run.end()
            self._run = None
        self._forget_memory()
        self._line.close(last)

    def _obey(self, message: Message) -> None:
        kind, run = message.kind, self._run
        if kind == control.WELCOME:
            self._line.heart.timeout_seconds = control.read(message)["timeout_seconds"]
            self._say(f"joined {self._line.channel.peer} with {self._workers} worker(s)")
        elif kind == control.REFUSED:
            raise RunError(f"the caller refused this worker: {control.read(message)['reason']}")
        elif kind == control.SEATS:
            self._line.heart.timeout_seconds = control.read(message)["timeout_seconds"]
            self._run = _Part(control.read(message), self._line, self._token)
        elif run is None:
            return  # it is over here already
        elif kind == control.PROGRAM:
            assert self._memory is not None
            run.take_program(self._memory[0])
            self._forget_memory(keep_file=True)
        elif kind == control.START:
            start = control.read(message)
            run.start(start["addresses"], start["hosts"])
        elif kind == control.WORDS:
            control.copy_words(message.payload, run.board, range(run.size), run.own, caller=False)
        elif kind == control.ABORT:
            run.abort()
        elif kind == control.AGAIN:
            run.again(control.read(message)["seat"])
        elif kind == control.KILL:
            run.kill(control.read(message)["rank"])
        elif kind == control.OVER:
            run.end()
            self._run = None
            self._line.post(control.OVER)

    def _wait(self) -> None:
        """Sleep until something comes, or for a tick; pass on what the ranks say."""
        channel = self._line.channel
        poll = select.poll() if self._run is None else self._run.ranks.poll
        poll.register(channel, channel.interest)
        seconds = 0.0 if self._line.more else control.TICK_SECONDS
        if self._run is None:
            poll.poll(seconds * 1e3)
        else:
            self._run.listen(seconds)
            poll.unregister(channel)
            self._run.tell()

    def _room(self, n_bytes: int) -> memoryview:
        """Return memory for a program, of which every rank of this host will see the same."""
        fd = _wire.anonymous_memory(max(n_bytes, 1))
        self._forget_memory()
        self._memory = fd, mmap.mmap(fd, max(n_bytes, 1))
        return memoryview(self._memory[1])[:n_bytes]

    def _forget_memory(self, *, keep_file: bool = False) -> None:
        if self._memory is not None and not keep_file:
            os.close(self._memory[0])
        self._memory = None


class _Part:
    """The ranks of a run that live here."""

    def __init__(self, order: dict[str, Any], line: control.Line, token: Token) -> None:
        self._line, self._token = line, token
        self._seats: dict[int, Seat] = {seat.rank: seat for seat in order["seats"]}
        self._name, self.size, self._n_text = order["run"], order["size"], order["n_text"]
        self._seconds = {"seconds": order["start_timeout_seconds"], "timeout_seconds": order["timeout_seconds"]}
        self.own = sorted(self._seats)
        self.away, self.back = set(self.own), set[int]()
        self._restarts = bool(order["restarts"])
        self._parcel: _wire.Parcel | None = None
        self._begun: dict[str, Any] | None = None
        self._told = False
        self._kill_at: float | None = None
        self._words = b""
        here = line.channel.sock.getsockname()[0]
        self._doors = {rank: listen(here, 0, credentials=Credentials(token, self._name)) for rank in self._seats}
        self.ranks = Ranks(self.own, self.size)
        self.board = self.ranks.board
        offer = {rank: [*door.getsockname()[:2], self.ranks.members[rank].pid] for rank, door in self._doors.items()}
        line.post(control.OFFER, {"run": self._name, "ranks": offer})

    def take_program(self, fd: int) -> None:
        self._parcel = _wire.Parcel(self._n_text, fd=fd)

    def start(self, addresses: list[Any], hosts: list[Any]) -> None:
        """Let the ranks run, now that it is known where all of them listen and which of them share a host."""
        peers = {"addresses": addresses, "token": bytes(self._token), "run": self._name, **self._seconds}
        self._begun = {"size": self.size, "transport": "tcp", "peers": peers, "hosts": hosts}
        for seat in self._seats.values():
            self._begin(seat)
        if not self._restarts:
            self._let_go()

    def again(self, seat: Seat) -> None:
        """Put a fresh process in the place of one that was lost; it listens where that one did."""
        if self._begun is None or not self._restarts:
            return
        self.ranks.kill(seat.rank)
        self.board.wipe(seat.rank)
        self.ranks.renew(seat.rank)
        self._seats[seat.rank] = seat
        self.back.discard(seat.rank)
        self.away.add(seat.rank)
        self._begin(seat)

    def _begin(self, seat: Seat) -> None:
        assert self._parcel is not None
        assert self._begun is not None
        self.ranks.begin(seat.rank, {"seat": seat, **self._begun}, self._parcel, (self._doors[seat.rank].fileno(),))

    def _let_go(self) -> None:
        """Close what only processes need that start now."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        if self._parcel is not None:
            self._parcel.close()
            self._parcel = None

    def abort(self) -> None:
        """Stop the ranks; those that do not come back soon are killed."""
        self.board.abort()
        self._told = True
        if self._kill_at is None:
            self._kill_at = time.monotonic() + _GRACE_SECONDS

    def kill(self, rank: int) -> None:
        if rank in self.away:
            self.ranks.kill(rank)
            self._gone(rank, Gone(None, True))

    def listen(self, seconds: float) -> None:
        """Pass on what the ranks say."""
        for rank, said in self.ranks.listen(seconds):
            if isinstance(said, Gone):
                self._gone(rank, said)
            else:
                if said.kind != _wire.EVENT:
                    self.away.discard(rank)
                    self.back.add(rank)
                    self.tell(last=True)
                self._line.channel.post(control.SAID, *control.said(rank, said.kind, said.n_text, said.take()))
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            for rank in sorted(self.away):
                self.kill(rank)

    def tell(self, *, last: bool = False) -> None:
        """Tell the caller what the ranks have written on the board; ``last``: before one of them is gone."""
        if self.board.aborted() and not self._told:
            self._told = True
            self._line.post(control.ABORT)
        words = control.words_of(self.board, self.own)
        if words != self._words and (last or not self._line.blocked):
            self._words = words
            self._line.channel.post(control.WORDS, words)

    def end(self) -> None:
        """Stop what still runs, and give the processes back."""
        self.board.abort()
        deadline = time.monotonic() + _GRACE_SECONDS
        while self.away and self._begun is not None and time.monotonic() < deadline:
            for rank, said in self.ranks.listen(deadline - time.monotonic()):
                if isinstance(said, Gone):
                    self.away.discard(rank)
                else:
                    said.close()
                    if said.kind != _wire.EVENT:
                        self.away.discard(rank)
                        self.back.add(rank)
        self._let_go()
        self.ranks.close(self.own if self._begun is None else sorted(self.back))

    def _gone(self, rank: int, gone: Gone) -> None:
        if rank in self.away:
            self.away.discard(rank)
            self.tell(last=True)
            life = self._seats[rank].life
            self._line.post(control.EXITED, {"rank": rank, "life": life, "code": gone.code, "ready": gone.ready})
