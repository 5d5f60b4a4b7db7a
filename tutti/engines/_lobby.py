"""Where workers of other hosts wait for a run: one thread of the caller lets them in and keeps their connections alive.

It outlives a run, as the worker processes of this host do: who has joined serves the next run, too.  A run takes what
comes from its guests out of a queue, in the caller's own thread.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tutti._frames import LOG, Door, FrameError, Message, PeerError, listen
from tutti._parcel import payload
from tutti._secure import Credentials, Token
from tutti.engines import _control as control
from tutti.engines._guest import version
from tutti.engines._pool import surroundings
from tutti.errors import ParameterError

_HELLO_SECONDS = 10.0
_EXIT_SECONDS = 2.0
_LOCAL = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tutti.engines._local import main; main()"


class Guest:
    """Workers of one host that have joined, through the one connection that they share.

    Parameters
    ----------
    line : to them.   host, pid : of the process at its other end.   n_workers : processes it offers.
    """

    def __init__(self, line: control.Line, host: str, pid: int, n_workers: int, local: bool) -> None:
        self.line, self.host, self.pid, self.n_workers, self.local = line, host, pid, n_workers, local
        self.run: Any = None
        self.free = True  # what it still says about the last run has come
        self.ranks: Sequence[int] = ()
        self.started = False  # its ranks have been told to run
        self.outbox: queue.SimpleQueue[tuple[int, Sequence[Any]]] = queue.SimpleQueue()
        self.words = b""
        self.expelled = ""


class Lobby(threading.Thread):
    """Lets workers in, passes messages, keeps the boards of runs alike; see the module."""

    def __init__(self, host: str, port: int, token_file: str, timeout_seconds: float) -> None:
        super().__init__(name="tutti-hosts", daemon=True)
        self._timeout = timeout_seconds
        self.token_file = token_file
        token = _token(token_file)
        self._door = Door(listen(host, port, credentials=Credentials(token)), Credentials(token))
        self.address = self._door.address
        self._lock = threading.Condition()
        self._guests: list[Guest] = []
        self._newcomers: list[tuple[control.Line, float]] = []
        self._closing = False
        self._local: dict[subprocess.Popen[bytes], int] = {}
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self.start()

    def command(self) -> str:
        """Return what a person runs on another host so that its workers join."""
        host, port = self.address
        return f"tutti worker --join {host}:{port} --token-file {self.token_file}"

    def start_local(self, n: int) -> None:
        """Start ``n`` workers on this host, less those that are there already."""
        with self._lock:
            there = sum(k for child, k in self._local.items() if child.poll() is None)
        if n <= there:
            return
        around = surroundings()
        host, port = self.address
        terms = {"host": host, "port": port, "token_file": self.token_file, "workers": n - there}
        child = subprocess.Popen(
            [sys.executable, "-c", _LOCAL, json.dumps(around["path"]), json.dumps(terms)],
            stdin=subprocess.DEVNULL,
            env=around["environment"],
            process_group=0,
        )
        with self._lock:
            self._local[child] = n - there

    def joined(self) -> int:
        """Number of workers that are here, free or not."""
        with self._lock:
            return sum(guest.n_workers for guest in self._guests)

    def take(self, run: Any, ranks: Sequence[int], timeout_seconds: float, wait_seconds: float) -> list[Guest]:
        """Give guests to a run, the caller's own first, each with the next of ``ranks``.

        There are none, after ``wait_seconds``, as long as they have too few workers together; if that is 0, those who
        are there get what they can take.
        """
        with self._lock:
            free = sorted((g for g in self._guests if g.free), key=lambda g: not g.local)
            if wait_seconds and sum(guest.n_workers for guest in free) < len(ranks):
                self._lock.wait(wait_seconds)
                return []
            taken: list[Guest] = []
            left = list(ranks)
            for guest in free:
                if not left:
                    break
                guest.ranks, left = sorted(left[: guest.n_workers]), left[guest.n_workers :]
                guest.run, guest.free, guest.words, guest.started = run, False, b"", False
                guest.line.heart.timeout_seconds = timeout_seconds
                taken.append(guest)
            return taken

    def give_back(self, guests: Sequence[Guest], broken: Sequence[Guest]) -> None:
        """Take guests back after a run; the broken ones are expelled."""
        with self._lock:
            for guest in guests:
                guest.run, guest.ranks = None, ()
        for guest in guests:
            if guest in broken:
                self.expel(guest, "its ranks did not stop in time")
            else:
                self.post(guest, control.OVER)

    def expel(self, guest: Guest, reason: str) -> None:
        """Close the connection to a guest; it may come again, with nothing left of what it did."""
        guest.expelled = reason
        self._ring()

    def post(self, guest: Guest, kind: int, value: Any = None, pieces: Sequence[Any] | None = None) -> None:
        """Send a message from any thread."""
        guest.outbox.put((kind, payload(value) if pieces is None else pieces))
        self._ring()

    def close(self) -> None:
        """Show everybody out and stop listening."""
        self._closing = True
        self._ring()
        self.join()
        with self._lock:
            children, self._local = list(self._local), {}
        for child in children:
            try:
                child.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    # ---- in the thread of the lobby

    def run(self) -> None:
        """Body of the thread."""
        try:
            while not self._closing:
                self._wait()
                for channel in self._door.admit():
                    self._newcomers.append((control.Line(channel, _HELLO_SECONDS), time.monotonic()))
                self._greet()
                for guest in list(self._guests):
                    self._serve(guest)
        finally:
            self._door.close()
            for line, _ in self._newcomers:
                line.close()
            for guest in list(self._guests):
                guest.line.close(control.BYE)
                self._drop(guest, "the caller closed the connection")
            self._bell.close()
            self._ringer.close()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        lines = [guest.line for guest in self._guests] + [line for line, _ in self._newcomers]
        for line in lines:
            poll.register(line.channel, line.channel.interest)
        poll.poll(0 if any(line.more for line in lines) else control.TICK_SECONDS * 1e3)
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(1 << 10)

    def _greet(self) -> None:
        """Let those in who say who they are."""
        waiting = []
        for line, since in self._newcomers:
            try:
                messages = line.turn()
                if not messages and time.monotonic() - since < _HELLO_SECONDS:
                    waiting.append((line, since))
                    continue
                self._welcome(line, messages)
            except PeerError as error:
                self._door.refuse(line.channel.peer, error.reason)
                line.close()
        self._newcomers = waiting

    def _welcome(self, line: control.Line, messages: Sequence[Message]) -> None:
        if not messages:
            raise FrameError(line.channel.peer, "it did not say who it is in time")
        hello: Any = control.read(messages[0]) if messages[0].kind == control.HELLO else None
        if not _is_hello(hello):
            raise FrameError(line.channel.peer, "it did not begin with a greeting")
        if hello["version"] != version():
            reason = f"it has version {hello['version']} of tutti, the caller {version()}; install the same on both"
            self._door.refuse(line.channel.peer, reason)
            line.close(control.REFUSED, {"reason": reason})
            return
        line.trusted, line.channel.peer = True, f"{hello['host']} ({line.channel.peer})"
        line.heart.timeout_seconds = self._timeout
        line.post(control.WELCOME, {"timeout_seconds": self._timeout})
        with self._lock:
            local = hello["pid"] in [child.pid for child in self._local] and hello["host"] == socket.gethostname()
            self._guests.append(Guest(line, hello["host"], hello["pid"], hello["workers"], local))
            self._lock.notify_all()

    def _serve(self, guest: Guest) -> None:
        """Move what can be moved to and from a guest."""
        try:
            self._send(guest)
            for message in guest.line.turn():
                if message.kind == control.BYE:
                    raise PeerError(guest.line.channel.peer, "its `tutti worker` was ended")
                if message.kind == control.OVER:
                    with self._lock:
                        guest.free = guest.run is None
                        self._lock.notify_all()
                elif guest.run is None:
                    continue
                elif message.kind == control.WORDS:
                    control.copy_words(message.payload, guest.run.board, guest.ranks, guest.ranks, caller=True)
                else:
                    guest.run.inbox.put((guest, message))
        except PeerError as error:
            guest.line.close()
            self._drop(guest, error.reason)

    def _send(self, guest: Guest) -> None:
        if guest.expelled:
            raise PeerError(guest.line.channel.peer, guest.expelled)
        while not guest.outbox.empty():
            kind, pieces = guest.outbox.get()
            guest.line.channel.post(kind, *pieces)
        run = guest.run
        if run is not None and guest.started and not guest.line.blocked:
            words = control.words_of(run.board, range(run.size))
            if words != guest.words:
                guest.words = words
                guest.line.channel.post(control.WORDS, words)

    def _drop(self, guest: Guest, reason: str) -> None:
        LOG.info("the workers of %s left: %s", guest.line.channel.peer, reason)
        with self._lock:
            self._guests.remove(guest)
            run = guest.run
            self._lock.notify_all()
        if run is not None:
            run.inbox.put((guest, reason))

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it is ringing already, or nobody is there any more
            self._ringer.send(b"!")


def _token(path: str) -> Token:
    """Return the token of a file, which is created if it is not there."""
    if not os.path.exists(path):
        Token.new().write(path)
    return Token.read(path)


def _is_hello(hello: Any) -> bool:
    wanted: dict[str, Callable[[Any], bool]] = {
        "version": lambda v: isinstance(v, str) and len(v) < 100,
        "host": lambda v: isinstance(v, str) and 0 < len(v) < 300,
        "pid": lambda v: isinstance(v, int),
        "workers": lambda v: isinstance(v, int) and 0 < v < 10_000,
    }
    return isinstance(hello, dict) and hello.keys() == wanted.keys() and all(ok(hello[k]) for k, ok in wanted.items())


_LOBBIES: dict[tuple[str, str], Lobby] = {}
_lock = threading.Lock()


def lobby(listening: str, token_file: str, timeout_seconds: float) -> Lobby:
    """Return the lobby that listens there, opened now if it is not open yet."""
    path = os.path.abspath(token_file)
    with _lock:
        found = _LOBBIES.get((listening, path))
        if found is None or not found.is_alive():
            host, port = split_address(listening, "listen")
            found = _LOBBIES[listening, path] = Lobby(host, port, path, timeout_seconds)
        return found


def split_address(text: str, name: str) -> tuple[str, int]:
    """Return host and port of "host:port"; ParameterError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ParameterError(name, text, 'write HOST:PORT, such as "10.0.0.1:4711"; port 0 lets the system choose')
    return host.strip("[]"), int(port)


def shutdown() -> None:
    """Show all workers out and close every lobby."""
    with _lock:
        found = list(_LOBBIES.values())
        _LOBBIES.clear()
    for each in found:
        each.close()


atexit.register(shutdown)
os.register_at_fork(after_in_child=_LOBBIES.clear)
