"""Framed messages over a socket, plain or TLS: bounded, in order, into memory that lies ready; never pickles.

A frame is a header (magic, kind, number, length) and its payload.  The number counts the frames of a direction, so one
that is repeated, left out or moved is refused; the receiver says where a payload goes, and how large it may be, before
a byte of it is read.  Nothing here blocks unless it is given a deadline: a `Channel` moves what can be moved.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tutti._path import Path
from tutti._secure import Credentials, is_loopback
from tutti.errors import ParameterError

LOG = logging.getLogger("tutti")

MAX_BYTES = 1 << 20
"""What a payload may hold unless the receiver says otherwise."""

_MAGIC = b"tut1"
_HEADER = struct.Struct("<4sIQQ")  # magic, kind, number of the frame in its direction, bytes of payload
_CHUNK = 1 << 20  # bytes handed to the system at once
_TURN = 1 << 22  # bytes a channel moves in each direction before others have their turn
_JOINED = 1 << 12  # a payload so small goes in one packet with its header
_HANDSHAKE_SECONDS = 10.0
_MAX_STRANGERS = 64  # connections that may be in their handshake at a time
_MAX_NAMES = 256  # addresses of which a refusal is remembered
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)

Address = tuple[str, int]
Place = Callable[[int, int], "memoryview | None"]


class PeerError(ConnectionError):
    """The connection to a peer is of no use any more.

    Parameters
    ----------
    peer : who is at the other end.
    reason : what happened.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer, self.reason = peer, reason


class FrameError(PeerError):
    """A peer sent what cannot be a frame of ours; nothing of it was used."""


class PeerLate(PeerError, TimeoutError):
    """A peer did not do its part before the deadline."""


class PeerCut(PeerError):
    """Nothing comes through to the host of a peer any more, though nobody has closed the connection."""


@dataclass(frozen=True)
class Message:
    """One message: its kind, and its payload where the receiver had it placed."""

    kind: int
    payload: memoryview


class Channel:
    """Messages over one connected socket, for one thread at a time.

    Parameters
    ----------
    sock : connected; TLS has been agreed on already, if it is to be used.
    peer : who is at the other end, for error messages; may be set anew once that is known better.
    place : called with the kind and length of a frame that begins to arrive; returns the memory (length bytes) for its
        payload, None if it has to wait until a later `pump`, or raises ValueError to refuse it.  Without it a
        payload of at most ``max_bytes`` gets memory of its own.
    max_bytes : see ``place``.
    """

    def __init__(self, sock: socket.socket, peer: str, place: Place | None = None, max_bytes: int = MAX_BYTES) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a socket pair has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.peer, self.place, self.max_bytes = sock, peer, place, max_bytes
        self.posted_bytes = self.sent_bytes = self.received_bytes = 0  # with the headers
        self.heard = time.monotonic()  # when the last bytes came
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._outgoing: deque[memoryview] = deque()
        self._n_sent = self._n_received = 0
        self._head = memoryview(bytearray(_HEADER.size))
        self._got = 0  # bytes of the header, then of the payload, that are there
        self._coming: tuple[int, int] | None = None  # kind and length of the frame that arrives
        self._into: memoryview | None = None
        self._error: OSError | None = None
        self._path: Path | None = None
        self._needs_room = self._needs_data = False  # TLS may have to write to read, or to read to write

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def queued(self) -> bool:
        """True while something that was posted is not with the system yet."""
        return bool(self._outgoing)

    @property
    def paused(self) -> bool:
        """True while a frame waits until ``place`` has memory for it."""
        return self._coming is not None and self._into is None

    @property
    def interest(self) -> int:
        """What to wait for before `pump` can get on: select.POLLIN, POLLOUT, both or 0."""
        reads = not self.paused or (self._needs_data and self.queued)
        writes = (self.queued and not self._needs_data) or self._needs_room
        return (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0)

    def guard(self, timeout_seconds: float) -> None:
        """Notice from now on, in `look`, when the other host leaves something without an answer for so long."""
        self._path = Path(self.sock, timeout_seconds)

    def look(self) -> None:
        """To be called now and then while the peer is waited for; PeerCut if nothing comes through any more."""
        if self._error is None and self._path is not None and not self._path.look():
            self._error = PeerCut(
                self.peer, f"its host has not answered on this connection for {self._path.silence:.1f} s"
            )
            raise self._error

    def post(self, kind: int, *payload: Any) -> None:
        """Queue a message for `pump` to send; the memory of ``payload`` (bytes-like, joined) must stay as it is."""
        views = [memoryview(p).cast("B") for p in payload if memoryview(p).nbytes]
        length = sum(map(len, views))
        header = _HEADER.pack(_MAGIC, kind, self._n_sent, length)
        self._n_sent += 1
        self.posted_bytes += _HEADER.size + length
        if length <= _JOINED:
            self._outgoing.append(memoryview(b"".join([header, *views])))
        else:
            self._outgoing.extend([memoryview(header), *views])

    def pump(self) -> tuple[list[Message], bool]:
        """Send and receive what can be without waiting.

        Returns
        -------
        The messages that are complete now, and True if there was more to do than one turn holds: pump again.

        Raises
        ------
        FrameError : for a frame that is refused.
        PeerError : if the connection broke or was closed by the peer.
        """
        if self._error is not None:
            raise self._broken(self._error)
        more, found = False, list[Message]()
        try:
            more = self._send()
        except OSError as error:
            self._error = error  # and yet what it said before is to be heard
        try:
            more |= self._receive(found)
        except OSError as error:
            self._error = error
        if self._error is None:
            return found, more
        if not found:
            raise self._broken(self._error)
        return found, True

    def send(self, kind: int, *payload: Any, seconds: float) -> None:
        """Send a message and return when the system has it all; PeerLate after ``seconds``.

        What arrives meanwhile stays where it is.
        """
        self.post(kind, *payload)
        deadline = time.monotonic() + seconds
        try:
            while self._send() or self.queued:
                wait = select.POLLIN if self._needs_data else select.POLLOUT
                self._wait(wait, deadline, "take what was sent")
        except OSError as error:
            raise self._broken(error) from None

    def receive(self, *, seconds: float) -> Message:
        """Return the next message; PeerLate after ``seconds``."""
        deadline = time.monotonic() + seconds
        try:
            found: list[Message] = []
            while True:
                more = self._receive(found, limit=1)
                if found:
                    return found[0]
                if not more:
                    self._wait(self.interest or select.POLLIN, deadline, "answer")
        except OSError as error:
            raise self._broken(error) from None

    def close(self) -> None:
        """Close the connection; what is queued is dropped."""
        self._outgoing.clear()
        self.sock.close()

    def _broken(self, error: OSError) -> PeerError:
        if isinstance(error, PeerError):
            return error
        return PeerError(self.peer, f"the connection broke ({_reason(error)})")

    def _wait(self, events: int, deadline: float, what: str) -> None:
        poll = select.poll()
        poll.register(self.sock, events)
        if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1e3):
            raise PeerLate(self.peer, f"did not {what} in time")

    def _send(self) -> bool:
        """Send what the system takes; True if a turn was too short for it."""
        moved, self._needs_data = 0, False
        while self._outgoing and moved < _TURN:
            view = self._outgoing[0]
            try:
                n = self.sock.send(view[:_CHUNK])  # TLS: after a refusal the same bytes must be given again, and are
            except (BlockingIOError, ssl.SSLWantWriteError):
                return False
            except ssl.SSLWantReadError:
                self._needs_data = True
                return False
            moved += n
            self.sent_bytes += n
            if n == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = view[n:]
        return bool(self._outgoing)

    def _receive(self, found: list[Message], limit: int = 1 << 30) -> bool:
        """Append the messages that are complete now to ``found``; True if a turn was too short for what is there."""
        moved, self._needs_room = 0, False
        while moved < _TURN and len(found) < limit:
            if self._coming is None:
                if not (n := self._read(self._head[self._got :])):
                    return False
                self._got += n
                if self._got < _HEADER.size:
                    continue
                self._coming, self._got = self._opened(), 0
            if self._into is None and (into := self._placed(*self._coming)) is not None:
                self._into = into
            if self._into is None:
                return False
            kind, length = self._coming
            while self._got < length and moved < _TURN:
                if not (n := self._read(self._into[self._got : self._got + _CHUNK])):
                    return False
                self._got, moved = self._got + n, moved + n
            if self._got == length:
                found.append(Message(kind, self._into))
                self._coming, self._into, self._got = None, None, 0
        return True

    def _read(self, view: memoryview) -> int:
        """Return how many bytes came into ``view``, 0 if none is there."""
        try:
            n = self.sock.recv_into(view)
        except (BlockingIOError, ssl.SSLWantReadError):
            return 0
        except ssl.SSLWantWriteError:
            self._needs_room = True
            return 0
        if n == 0:
            if self._got or self._coming is not None:
                raise PeerError(self.peer, "closed the connection in the middle of a frame")
            raise PeerError(self.peer, "closed the connection")
        self.received_bytes += n
        self.heard = time.monotonic()
        return n

    def _opened(self) -> tuple[int, int]:
        """Return kind and length of the frame whose header has come."""
        magic, kind, number, length = _HEADER.unpack(self._head)
        if magic != _MAGIC:
            raise FrameError(self.peer, "sent what is not a frame of this library, or of another version of it")
        if number != self._n_received:
            raise FrameError(self.peer, f"sent frame {number} where frame {self._n_received} was due")
        self._n_received += 1
        return kind, length

    def _placed(self, kind: int, length: int) -> memoryview | None:
        if self.place is None:
            if length > self.max_bytes:
                raise FrameError(self.peer, f"sent a frame of {length} bytes; at most {self.max_bytes} are taken")
            return memoryview(bytearray(length))
        try:
            into = self.place(kind, length)
        except ValueError as error:
            raise FrameError(self.peer, f"sent a frame that was not expected: {error}") from None
        return None if into is None else into.cast("B")


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


def listen(host: str = "127.0.0.1", port: int = 0, *, credentials: Credentials | None) -> socket.socket:
    """Listen at a port that the system chooses, unless one is named.

    Raises
    ------
    ParameterError : without credentials, which is for loopback addresses alone, or if ``host`` is none of this machine.
    """
    try:
        _may_be_plain(host, credentials)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        expected = f"nothing can listen there ({error.strerror}); write an address of this machine"
        raise ParameterError("host", f"{host}:{port}", expected) from None


def connect(
    address: Address,
    credentials: Credentials | None,
    *,
    seconds: float,
    peer: str = "",
    reach_seconds: float | None = None,
) -> Channel:
    """Connect to who listens at ``address``, and prove each other's right to speak.

    With TLS 1.3 it is the first answer that proves that the other side took this one's certificate.

    Raises
    ------
    ParameterError : without credentials, which is for loopback addresses alone.
    PeerLate, PeerError : if nobody answers in time, or the other side cannot prove that it belongs to the run.
    PeerCut : its host has not answered within ``reach_seconds``, or there is no way to it.
    """
    peer = peer or _show(address)
    deadline = time.monotonic() + seconds
    sock: socket.socket | None = None
    try:
        _may_be_plain(address[0], credentials)
        sock = socket.create_connection(address, timeout=seconds if reach_seconds is None else reach_seconds)
        if credentials is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-3))
            sock = credentials.context(server=False).wrap_socket(sock)
        return Channel(sock, peer)
    except OSError as error:
        if sock is not None:
            sock.close()
        elif reach_seconds is not None and (isinstance(error, TimeoutError) or error.errno in _NO_WAY):
            raise PeerCut(peer, f"its host cannot be reached ({_reason(error)})") from None
        if isinstance(error, TimeoutError):
            raise PeerLate(peer, f"did not answer within {seconds:g} s") from None
        if isinstance(error, ssl.SSLError):
            raise PeerError(peer, f"it could not prove that it belongs to this run ({_reason(error)})") from None
        raise PeerError(peer, f"it cannot be reached ({_reason(error)})") from None


def _may_be_plain(host: str, credentials: Credentials | None) -> None:
    if credentials is None and not is_loopback(host):
        raise ParameterError("host", host, "plain text travels on loopback addresses alone; give the token of the run")


def _show(address: Sequence[Any]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


class Door:
    """Lets in who can prove to belong to the run; nobody is waited for, however slowly they shake hands.

    Parameters
    ----------
    listening : from `listen`; it is closed with the door.
    credentials : of the run; None for plain text, on loopback alone.
    seconds : a handshake that takes longer is given up.
    """

    def __init__(
        self, listening: socket.socket, credentials: Credentials | None, seconds: float = _HANDSHAKE_SECONDS
    ) -> None:
        listening.setblocking(False)
        self._listening, self._credentials, self._seconds = listening, credentials, seconds
        self._strangers: dict[int, tuple[ssl.SSLSocket, str, float]] = {}
        self._poll = select.poll()
        self._poll.register(listening, select.POLLIN)
        self._named: set[str] = set()
        self.n_refused = 0

    @property
    def address(self) -> Address:
        host, port = self._listening.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        return self._listening.fileno()

    def admit(self, seconds: float = 0.0) -> list[Channel]:
        """Return the channels to those who have proved themselves now, waiting for the next so long at most."""
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            until = min([deadline, *(late for _, _, late in self._strangers.values())])
            ready = self._poll.poll(max(until - now, 0.0) * 1e3)
            found = [channel for fd, _ in ready for channel in self._served(fd)]
            for fd, (_, who, late) in list(self._strangers.items()):
                if time.monotonic() >= late:
                    self.refuse(who, "it did not finish its handshake in time")
                    self._drop(fd)
            if found or time.monotonic() >= deadline:
                return found

    def refuse(self, who: str, reason: str) -> None:
        """Count a refusal; the first one of a host is logged."""
        self.n_refused += 1
        host = who.rpartition(":")[0]
        if host not in self._named and len(self._named) < _MAX_NAMES:
            self._named.add(host)
            LOG.warning("a connection from %s was refused: %s; further ones from there are not reported", who, reason)

    def close(self) -> None:
        """Close the door; who has been let in stays."""
        for fd in list(self._strangers):
            self._drop(fd)
        self._listening.close()

    def _served(self, fd: int) -> list[Channel]:
        if fd != self._listening.fileno():
            return self._shaken(fd)
        try:
            sock, address = self._listening.accept()
        except (BlockingIOError, ConnectionError, TimeoutError):
            return []
        who = _show(address)
        if self._credentials is None:
            return [Channel(sock, who)]
        if len(self._strangers) >= _MAX_STRANGERS:
            self.refuse(who, "too many others are in their handshakes")
            sock.close()
            return []
        sock.setblocking(False)
        context = self._credentials.context(server=True)
        try:
            secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:  # it has gone already
            sock.close()
            return []
        self._strangers[secure.fileno()] = (secure, who, time.monotonic() + self._seconds)
        return self._shaken(secure.fileno())

    def _shaken(self, fd: int) -> list[Channel]:
        """Go on with a handshake."""
        sock, who, _ = self._strangers[fd]
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._poll.register(fd, select.POLLIN)
            return []
        except ssl.SSLWantWriteError:
            self._poll.register(fd, select.POLLOUT)
            return []
        except OSError as error:
            self.refuse(who, f"it could not prove that it belongs to this run ({_reason(error)})")
            self._drop(fd)
            return []
        del self._strangers[fd]
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        return [Channel(sock, who)]

    def _drop(self, fd: int) -> None:
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        self._strangers.pop(fd)[0].close()
