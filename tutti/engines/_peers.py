"""The link of a rank whose peers are on several hosts: every two ranks are connected, as soon as that is asked for.

Each rank listens and connects to those of lower rank; both sides prove that they know the token of the run.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from tutti._arena import Arena, ShmLink
from tutti._board import Board
from tutti._frames import Address, Channel, Door, PeerError, connect
from tutti._secure import Credentials, Token, forbid_core_dumps
from tutti.errors import Aborted, RunError

_GREETING = 1
_RANK = struct.Struct("<Q")
_LOOK_SECONDS = 0.05
_GREETING_SECONDS = 5.0


class Peers:
    """Where the ranks of a run listen, and what it takes to speak with them.

    Parameters
    ----------
    fd : this rank's listening socket, whose owner this becomes.
    addresses : of all ranks.   token, run : secret and name of the run.   seconds : until all must be connected.
    timeout_seconds : how long a host may leave what is sent to it without an answer.
    """

    def __init__(
        self, fd: int, addresses: list[Any], token: bytes, run: str, seconds: float, timeout_seconds: float
    ) -> None:
        forbid_core_dumps()
        self._listening = socket.socket(fileno=fd)
        self._addresses: list[Address] = [(host, port) for host, port in addresses]
        self._credentials, self._seconds = Credentials(Token(token), run), seconds
        self.timeout_seconds = timeout_seconds

    def meet(self, rank: int, board: Board, among: Sequence[int] | None = None) -> dict[int, Channel]:
        """Return a channel to each other rank of ``among``, None: of all; just these call this."""
        ranks = range(len(self._addresses)) if among is None else sorted(among)
        deadline = time.monotonic() + self._seconds
        found: dict[int, Channel] = {}
        door = Door(self._listening, self._credentials)
        try:
            for lower in (other for other in ranks if other < rank):
                found[lower] = self._reach(lower, rank, board, deadline)
            while len(found) < len(ranks) - 1:
                _go_on(rank, board)
                if time.monotonic() > deadline:
                    missing = [r for r in ranks if r != rank and r not in found]
                    raise RunError(f"rank {rank}: ranks {missing} did not connect within {self._seconds:g} s")
                for channel in door.admit(_LOOK_SECONDS):
                    self._greeted(channel, rank, ranks, found, door)
            for channel in found.values():
                channel.guard(self.timeout_seconds)
            return dict(sorted(found.items()))
        except BaseException:
            for channel in found.values():
                channel.close()
            raise
        finally:
            door.close()

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    def door(self) -> Door:
        """Let in who comes, at any time."""
        return Door(self._listening, self._credentials)

    def address(self, rank: int) -> Address:
        """Return where a rank listens."""
        return self._addresses[rank]

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()

    def _reach(self, lower: int, rank: int, board: Board, deadline: float) -> Channel:
        left = max(deadline - time.monotonic(), _LOOK_SECONDS)
        try:
            channel = connect(self._addresses[lower], self._credentials, seconds=left, peer=f"rank {lower}")
            channel.send(_GREETING, _RANK.pack(rank), seconds=left)
        except PeerError as error:
            _go_on(rank, board)
            host, port = self._addresses[lower]
            raise RunError(
                f"rank {rank} cannot reach rank {lower} at {host}:{port} ({error.reason}); every worker must be able "
                "to connect to every other one, look at firewalls between their hosts"
            ) from error
        return channel

    def _greeted(
        self, channel: Channel, rank: int, ranks: Sequence[int], found: dict[int, Channel], door: Door
    ) -> None:
        """Take in a peer that says who it is."""
        try:
            message = channel.receive(seconds=_GREETING_SECONDS)
            (other,) = _RANK.unpack(message.payload)
        except (PeerError, struct.error):
            other = -1
        if other not in ranks or other <= rank or other in found:
            door.refuse(channel.peer, "it did not say which rank it is")
            channel.close()
            return
        channel.peer = f"rank {other}"
        found[other] = channel


class HostLink(ShmLink):
    """A `tutti.comm.tcp.PeerLink`; memory and locks are shared with the ranks of this host alone.

    ``hosts`` lists the ranks of each host.
    """

    def __init__(
        self, arena: Arena, board: Board, rank: int, size: int, peers: Peers, hosts: Sequence[Sequence[int]]
    ) -> None:
        super().__init__(arena, board, rank, size, "tcp")
        self._peers: Peers | None = peers
        self.hosts = hosts

    def peers(self, among: Sequence[int] | None = None) -> dict[int, Channel]:
        """Return a channel to each other rank of ``among``, None: of all; once in a run."""
        peers, self._peers = self._peers, None
        if peers is None:
            raise RunError(f"rank {self.rank} asked twice for the connections of one run")
        return peers.meet(self.rank, self.board, among)

    def visits(self) -> Peers:
        """Return where all ranks listen, for ranks that ask one another instead."""
        if self._peers is None:
            raise RunError(f"rank {self.rank} asked twice for the connections of one run")
        return self._peers

    def close(self) -> None:
        """Stop listening, if nobody has asked for the connections."""
        if self._peers is not None:
            self._peers.close()
            self._peers = None


def _go_on(rank: int, board: Board) -> None:
    if board.aborted():
        raise Aborted(f"rank {rank} (pid {os.getpid()}): the run was stopped while the ranks connected")
