"""The connection between the caller and the workers of another host: what is said on it, and that it lives.

Values travel as JSON and arrays (`tutti._parcel`); a large one flows past the beats, which then need not come.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tutti._board import ARRIVED, BEAT, FATE, FINISHED, LIFE, STEP, WAITING, Board
from tutti._frames import Channel, FrameError, Message, PeerLate
from tutti._parcel import payload, unpack, value_of
from tutti.engines._heart import Heart

VERSION = 2  # of what is said here
HELLO, WELCOME, REFUSED, PULSE, SEATS, PROGRAM, OFFER, START, WORDS, ABORT, KILL, SAID, EXITED, OVER, BYE, AGAIN = (
    range(1, 17)
)
"""In the order of a run: a worker's HELLO is answered with WELCOME or REFUSED; SEATS and PROGRAM with OFFER, the
addresses where its ranks listen; START makes them run, AGAIN has a fresh process take the seat of one that was lost.
SAID and EXITED come from ranks, OVER from the caller when it has the result, and back from a worker that is free again;
BYE from who leaves."""

TICK_SECONDS = 0.05
_LARGE = 1 << 16  # bytes of a message that keeps beats waiting
_MOST = {PROGRAM: 1 << 38, SAID: 1 << 38}  # bytes; any other message is small
_SMALL = 1 << 20
_SAID = struct.Struct("<qqq40x")  # rank, kind of the rank's frame, bytes of text; then the parcel, 64-byte aligned

_OF_RANKS = (ARRIVED, STEP, BEAT, WAITING, FINISHED)
_OF_CALLER = (FATE, LIFE)


class Line:
    """One end of a control connection, for one thread.

    Parameters
    ----------
    channel : to the other end.   timeout_seconds : silence that is forgiven.
    room : returns memory for the payload of a PROGRAM; None: any memory.
    """

    def __init__(
        self, channel: Channel, timeout_seconds: float, room: Callable[[int], memoryview] | None = None
    ) -> None:
        self.channel, self._room = channel, room
        self.trusted = False  # who has not said HELLO yet sends nothing large
        self.heart = Heart(timeout_seconds, time.monotonic())
        self.more = False  # there is more to do than one turn holds: do not wait
        self.blocked = False  # something large is on its way out: what can wait is not posted
        self.receiving = False  # something large is on its way in: what the ranks write comes after it
        self._counts = (0, 0)
        channel.place = self._place

    def post(self, kind: int, value: Any = None) -> None:
        self.channel.post(kind, *payload(value))

    def turn(self) -> list[Message]:
        """Send and receive what can be now, a beat if one is due; return what came, beats apart.

        Raises
        ------
        PeerError : the connection is of no use any more; PeerLate : the other end is silent.
        """
        now = time.monotonic()
        beat = None if self.blocked else self.heart.beat(now)
        if beat is not None:
            self.channel.post(PULSE, beat)
        found, self.more = self.channel.pump()
        self.blocked = self.channel.queued
        sent, received = self.channel.sent_bytes, self.channel.received_bytes
        if (self.blocked and sent > self._counts[0]) or (self.receiving and received > self._counts[1]):
            self.heart.moved()
        self._counts = sent, received
        for message in found:
            if message.kind == PULSE:
                try:
                    self.heart.take(message.payload)
                except ValueError as error:
                    raise FrameError(self.channel.peer, str(error)) from None
        if not self.heart.look(now):
            raise PeerLate(self.channel.peer, f"no sign of life for {self.heart.silence:.1f} s")
        return [message for message in found if message.kind != PULSE]

    def close(self, last: int | None = None, value: Any = None) -> None:
        """Close the connection, after a last message if it can be sent at once."""
        if last is not None:
            try:
                if not self.channel.queued:
                    self.channel.send(last, *payload(value), seconds=TICK_SECONDS)
            except OSError:
                pass  # the other end has left already
        self.channel.close()

    def _place(self, kind: int, length: int) -> memoryview:
        most = _MOST.get(kind, _SMALL) if self.trusted else _LARGE
        if length > most:
            raise ValueError(f"{length} bytes where at most {most} are taken")
        self.receiving = length > _LARGE
        if kind == PROGRAM and self._room is not None:
            return self._room(length)
        return memoryview(np.empty(length, np.uint8).data)


def read(message: Message) -> Any:
    """Return the value of a message.  Raises FrameError for what is none."""
    try:
        return value_of(message.payload)
    except Exception as error:
        raise FrameError("a peer", f"sent a message that cannot be read ({type(error).__name__}: {error})") from None


def program(value: Any) -> tuple[int, list[Any]]:
    """Return the bytes of text and the pieces of memory of a PROGRAM, which a host keeps as it comes."""
    _, *pieces = payload(value)
    return len(pieces[0]), pieces


def said(rank: int, kind: int, n_text: int, body: Any) -> list[Any]:
    """Return the pieces of a SAID: what a rank sent, as it came."""
    return [_SAID.pack(rank, kind, n_text), body]


def heard(message: Message) -> tuple[int, int, Any]:
    """Return rank, kind and value of a SAID.  Raises FrameError for what is none."""
    try:
        rank, kind, n_text = _SAID.unpack_from(message.payload)
        return rank, kind, unpack(n_text, message.payload[_SAID.size :])
    except Exception as error:
        raise FrameError("a peer", f"sent a message that cannot be read ({type(error).__name__}: {error})") from None


def words_of(board: Board, ranks: Sequence[int]) -> bytes:
    """Return the words that ranks write, and what the caller writes about them."""
    words = [board.get(rank, word) for rank in ranks for word in (*_OF_RANKS, *_OF_CALLER)]
    return np.array(words, np.int64).tobytes()


def copy_words(words: memoryview, board: Board, ranks: Sequence[int], own: Sequence[int], *, caller: bool) -> None:
    """Write the words of ``ranks`` from elsewhere on a board: of ``own`` ranks what the caller writes, else all.

    At the caller it is the other way round: what it writes itself stays.
    """
    table = np.frombuffer(words, np.int64)
    n = len(_OF_RANKS) + len(_OF_CALLER)
    if len(table) != n * len(ranks):
        raise FrameError("a peer", f"sent {len(table)} words for {len(ranks)} ranks")
    for rank, row in zip(ranks, table.reshape(-1, n).tolist(), strict=True):
        kinds = _OF_RANKS if caller else _OF_CALLER if rank in own else _OF_RANKS + _OF_CALLER
        named = dict(zip(_OF_RANKS + _OF_CALLER, row, strict=True))
        changed = [word for word in kinds if board.get(rank, word) != named[word]]
        for word in changed:
            board.set(rank, word, named[word])
        if any(word in (FINISHED, *_OF_CALLER) for word in changed):
            board.wake(rank)
