"""Requests that are carried out once, however often a connection breaks on the way.

A caller numbers its requests and repeats one, over a new connection, until its reply has come.  Who answers keeps the
last reply of every caller, so that a repeated request is answered again but not carried out again.
"""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutti._frames import Address, Channel, Door, FrameError, Message, PeerCut, PeerError, PeerLate, connect
from tutti._secure import Credentials

HELLO = 0
"""The kind of the frame that says who calls; all other kinds are the callers' own."""

_ID_BYTES = 16
_HEAD = 64  # bytes before the body of a frame, which hold its number; what follows is aligned for any array
_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = 0.02  # until who could not be reached is tried again
_SHAKE_SECONDS = 10.0
_REACH_SECONDS = 1.0  # until a host that lets us reach it has answered; the system tries a second time then


class _Room:
    """Memory for one frame at a time, used again for frames of the same length."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._memory = max_bytes + _HEAD, bytearray()

    def place(self, kind: int, length: int) -> memoryview:
        if not _ID_BYTES <= length <= self._max:
            raise ValueError(f"{length} bytes; from {_ID_BYTES} to {self._max} are taken")
        if len(self._memory) != length:
            self._memory = bytearray(length)
        return memoryview(self._memory)


def _numbered(number: int, payload: Sequence[Any]) -> list[Any]:
    return [number.to_bytes(8, "little").ljust(_HEAD, b"\0"), *payload]


def _opened(message: Message) -> tuple[int, memoryview]:
    """Return number and body of a frame."""
    if len(message.payload) < _HEAD:
        raise ValueError(f"a frame of {len(message.payload)} bytes has no number")
    return int.from_bytes(message.payload[:8], "little"), message.payload[_HEAD:]


class Caller:
    """Asks one server, one request at a time.

    Parameters
    ----------
    where : returns the server's address; it may have another one after a restart.
    credentials : of the run; None for plain text, on loopback alone.
    seconds : a request that has no reply by then is given up.
    max_bytes : largest reply.
    look : called now and then while waiting; it may raise to end the wait.
    patience_seconds : how long the server's host may leave everything without an answer; None: as long as ``seconds``.
    peer : who the server is, for error messages; "": its address.
    """

    def __init__(
        self,
        where: Callable[[], Address],
        credentials: Credentials | None,
        *,
        seconds: float,
        max_bytes: int,
        look: Callable[[], None] = lambda: None,
        patience_seconds: float | None = None,
        peer: str = "",
    ) -> None:
        self._where, self._credentials, self._seconds, self._look = where, credentials, seconds, look
        self._patience, self._peer = patience_seconds, peer
        self._cut_since: float | None = None
        self._id = secrets.token_bytes(_ID_BYTES)
        self._room = _Room(max_bytes)
        self._channel: Channel | None = None
        self._number = 0
        self._asked: tuple[int, list[Any]] | None = None
        self._deadline = 0.0
        self.n_connections = 0
        self._sent = 0

    def ask(self, kind: int, *payload: Any) -> None:
        """Begin a request; the memory of ``payload`` (bytes-like, joined) stays as it is until `answer` returns."""
        if self._asked is not None:
            raise RuntimeError("the last request has no reply yet")
        self._number += 1
        self._asked = kind, _numbered(self._number, payload)
        self._deadline = time.monotonic() + self._seconds
        if self._channel is not None:
            self._channel.post(kind, *self._asked[1])

    def pump(self) -> Message | None:
        """Move what can be moved; return the reply when it is there, valid until the next request.

        Raises
        ------
        PeerLate : if there was none in time.
        PeerCut : if its host gave no answer for too long.
        FrameError : for a reply that is none.
        """
        assert self._asked is not None
        try:
            if self._channel is None and not self._connect():
                return None
            assert self._channel is not None
            self._channel.look()
            found, more = self._channel.pump()
            while more and not found:
                found, more = self._channel.pump()
        except FrameError:
            raise
        except PeerLate:
            raise
        except PeerError as error:
            self._drop()
            if isinstance(error, PeerCut):
                self._check_cut(error)
            self._check_time()
            return None
        for message in found:
            number, body = _opened(message)
            if number == self._number:
                self._asked = None
                return Message(message.kind, body)
        self._check_time()
        return None

    def answer(self) -> Message:
        """Wait for the reply."""
        return answers([self])[0]

    def close(self) -> None:
        self._drop()

    def break_connection(self) -> None:
        """Close the connection as a fault would; the request goes on over a new one."""
        self._drop()

    @property
    def channel(self) -> Channel | None:
        return self._channel

    @property
    def sent_bytes(self) -> int:
        """Bytes that were sent, over all connections."""
        return self._sent + (self._channel.sent_bytes if self._channel is not None else 0)

    def _connect(self) -> bool:
        self._check_time()
        began = time.monotonic()
        left = self._deadline - began
        reach = None if self._patience is None else 1.5 * _REACH_SECONDS
        try:
            channel = connect(
                self._where(),
                self._credentials,
                seconds=min(left, self._seconds if reach is None else _SHAKE_SECONDS),
                peer=self._peer,
                reach_seconds=reach,
            )
        except PeerCut as error:
            if self._cut_since is None:
                self._cut_since = began
            self._check_cut(error)
            return False
        except PeerLate:
            self._check_time()
            return False
        except PeerError:
            time.sleep(min(_AGAIN_SECONDS, max(left, 0.0)))  # it may be starting anew
            self._check_time()
            return False
        self._cut_since = None
        if self._patience is not None:
            channel.guard(self._patience)
        channel.place = self._room.place
        channel.post(HELLO, self._id)
        assert self._asked is not None
        channel.post(self._asked[0], *self._asked[1])
        self._channel = channel
        self.n_connections += 1
        return True

    def _check_cut(self, error: PeerCut) -> None:
        """Give up if another connection has been tried in vain, too, and all has been silent for too long."""
        assert self._patience is not None
        now = time.monotonic()
        if self._cut_since is None:
            self._cut_since = now - self._patience
        if now - self._cut_since > self._patience + _REACH_SECONDS:
            raise error

    def _check_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise PeerLate(self._name(), f"had no reply within {self._seconds:g} s")

    def _name(self) -> str:
        try:
            return str(self._where())
        except PeerError as error:
            return error.peer

    def _drop(self) -> None:
        if self._channel is not None:
            self._sent += self._channel.sent_bytes
            self._channel.close()
            self._channel = None


def answers(callers: Sequence[Caller]) -> list[Message]:
    """Wait for the replies to all callers' requests, which travel side by side."""
    found: dict[int, Message] = {}
    while True:
        for i, caller in enumerate(callers):
            if i not in found and (reply := caller.pump()) is not None:
                found[i] = reply
        if len(found) == len(callers):
            return [found[i] for i in range(len(callers))]
        poll = select.poll()
        for i, caller in enumerate(callers):
            if i not in found and caller.channel is not None:
                poll.register(caller.channel, caller.channel.interest)
        poll.poll(_LOOK_SECONDS * 1e3)
        for caller in callers:
            caller._look()


@dataclass
class _Peer:
    """What is known of a caller."""

    number: int = 0
    reply: tuple[int, list[Any]] | None = None
    channel: Channel | None = None


@dataclass(frozen=True)
class Request:
    """What a caller wants: the kind and body of its request; the body is valid until it is answered."""

    caller: bytes
    kind: int
    body: memoryview
    number: int = field(default=0, repr=False)


class Answerer:
    """Takes requests from any number of callers; each is handed out once.

    Parameters
    ----------
    door : lets callers in; closed with the answerer.
    max_bytes : largest request.
    """

    def __init__(self, door: Door, max_bytes: int) -> None:
        self._door, self._max = door, max_bytes
        self._peers: dict[bytes, _Peer] = {}
        self._channels: dict[int, tuple[Channel, bytes | None]] = {}
        self._sent = 0
        self._came: list[Request] = []

    def wait(self, seconds: float) -> list[Request]:
        """Return the requests that have come; wait so long for the first one at most."""
        self._look()
        if not self._came:
            poll = select.poll()
            poll.register(self._door, select.POLLIN)
            for channel, _ in self._channels.values():
                poll.register(channel, channel.interest)
            poll.poll(seconds * 1e3)
            self._look()
        found, self._came = self._came, []
        return found

    def reply(self, request: Request, kind: int, *payload: Any) -> None:
        """Answer a request; the memory of ``payload`` stays as it is until the caller's next request."""
        peer = self._peers.get(request.caller)
        if peer is None or peer.number != request.number:
            return  # forgotten, or it has given up and asked for something else
        peer.reply = kind, _numbered(request.number, payload)
        if peer.channel is not None:
            peer.channel.post(kind, *peer.reply[1])
            self._pump(peer.channel)

    def forget(self, caller: bytes) -> None:
        """Drop what is kept for a caller that is known not to come back."""
        peer = self._peers.pop(caller, None)
        if peer is not None and peer.channel is not None:
            self._close(peer.channel)

    @property
    def sent_bytes(self) -> int:
        """Bytes that were sent, over all connections."""
        return self._sent + sum(channel.sent_bytes for channel, _ in self._channels.values())

    def close(self) -> None:
        for channel, _ in list(self._channels.values()):
            self._sent += channel.sent_bytes
            channel.close()
        self._channels.clear()
        self._door.close()

    def _look(self) -> None:
        for channel in self._door.admit():
            channel.place = _Room(self._max).place
            self._channels[channel.fileno()] = channel, None
        for channel, _ in list(self._channels.values()):
            self._pump(channel)

    def _pump(self, channel: Channel) -> None:
        """Move what can be moved; requests that have come wait for `wait`."""
        try:
            messages, more = channel.pump()
            while more and not messages:
                messages, more = channel.pump()
            for message in messages:
                self._take(channel, message)
        except (PeerError, ValueError) as error:
            if isinstance(error, FrameError | ValueError):
                self._door.refuse(channel.peer, str(error))
            self._close(channel)

    def _take(self, channel: Channel, message: Message) -> None:
        caller = self._channels[channel.fileno()][1]
        if caller is None:
            if message.kind != HELLO or len(message.payload) != _ID_BYTES:
                raise ValueError("it did not say who it is")
            self._introduced(channel, bytes(message.payload))
            return
        number, body = _opened(message)
        peer = self._peers[caller]
        if number == peer.number and peer.reply is not None:
            channel.post(peer.reply[0], *peer.reply[1])
        if number > peer.number:  # else it was carried out already, or is about to be
            peer.number, peer.reply = number, None
            self._came.append(Request(caller, message.kind, body, number))

    def _introduced(self, channel: Channel, caller: bytes) -> None:
        peer = self._peers.setdefault(caller, _Peer())
        if peer.channel is not None:
            self._close(peer.channel)  # the old connection has broken, which is known there first
        peer.channel = channel
        self._channels[channel.fileno()] = channel, caller

    def _close(self, channel: Channel) -> None:
        for fd, (other, caller) in list(self._channels.items()):
            if other is channel:
                del self._channels[fd]
                self._sent += channel.sent_bytes
                if caller is not None and caller in self._peers and self._peers[caller].channel is channel:
                    self._peers[caller].channel = None
        channel.close()
