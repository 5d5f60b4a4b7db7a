"""Where ranks that ask one another find each other, and what they show: nobody waits for all to be there.

Ranks of one host leave it in their shared memory, together with the token of the run, for a rank that is lost may be
started again and has to prove itself like the others.  Between hosts, the engine knows both (`VisitLink`).
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from tutti._board import FINISHED
from tutti._frames import Address, Door, PeerCut, PeerError, listen
from tutti._secure import TOKEN_BYTES, Credentials, Token, forbid_core_dumps
from tutti.comm._partial import PartialComm, Plan, Sum
from tutti.comm.tcp.calls import Answerer, Caller, answers
from tutti.errors import RunError, Unreachable
from tutti.protocols import Link
from tutti.types import Array

_SECONDS = 120.0  # until a reply must be there; who has died is known to the engine much sooner
_WORD = 8


class Visits(Protocol):
    """Where each rank listens, and with which credentials; how long a host may leave all without an answer."""

    @property
    def credentials(self) -> Credentials | None: ...
    @property
    def timeout_seconds(self) -> float | None: ...
    def door(self) -> Door: ...
    def address(self, rank: int) -> Address: ...
    def close(self) -> None: ...


@runtime_checkable
class VisitLink(Link, Protocol):
    """The link of a rank whose engine knows where all ranks listen."""

    def visits(self) -> Visits: ...


class HostVisits:
    """`Visits` of the ranks of one host.

    Parameters
    ----------
    link : its memory has the token of the run, made by whoever comes first, and the ports.
    """

    timeout_seconds = None  # there is no way to be cut

    def __init__(self, link: Link) -> None:
        forbid_core_dumps()
        self._rank, self._run = link.rank, link.board.run
        memory = link.allocate(_WORD * (1 + 2 * link.size) + TOKEN_BYTES)
        self._words, self._token = memory[:-TOKEN_BYTES].view(np.int64), memory[-TOKEN_BYTES:]
        with link.lock():
            if self._words[0] != self._run:
                self._token[:] = list(bytes(Token.new()))
                self._words[1:] = 0
                self._words[0] = self._run
            self.credentials = Credentials(Token(self._token.tobytes()))

    def door(self) -> Door:
        """Listen from now on, and say where."""
        door = Door(listen(credentials=self.credentials), self.credentials)
        self._words[1 + self._rank] = door.address[1]
        return door

    def address(self, rank: int) -> Address:
        port = int(self._words[1 + rank])
        if not port:
            raise PeerError(f"rank {rank}", "it does not listen yet")
        return "127.0.0.1", port

    def close(self) -> None:
        """Wipe the token: nobody comes any more."""
        self._words[0] = 0
        self._token[:] = 0


class CallComm(PartialComm):
    """The `tutti.calling.Calls` of a rank that makes no collective call.

    Parameters
    ----------
    link : what the engine gave to this rank.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._visits: Visits = link.visits() if isinstance(link, VisitLink) else HostVisits(link)
        self._callers: list[Caller] = []
        self._answerer: Answerer | None = None

    @property
    def run(self) -> int:
        """A number no earlier run on the same memory had."""
        return self._board.run

    @property
    def sent_bytes(self) -> int:
        """Bytes this rank sent."""
        served = self._answerer.sent_bytes if self._answerer is not None else 0
        return served + sum(caller.sent_bytes for caller in self._callers)

    def answering(self, max_bytes: int) -> Answerer:
        """Begin to take requests."""
        self._answerer = Answerer(self._visits.door(), max_bytes)
        return self._answerer

    def asking(self, rank: int, max_bytes: int) -> Caller:
        """Return who calls a rank."""

        def look() -> None:
            self._enter()
            if self._board.lost(rank):
                self._broken(f"rank {self._rank} asks rank {rank}, which was lost and is not started again")

        caller = Caller(
            lambda: self._visits.address(rank),
            self._visits.credentials,
            seconds=_SECONDS,
            max_bytes=max_bytes,
            look=look,
            patience_seconds=self._visits.timeout_seconds,
            peer=f"rank {rank}",
        )
        self._callers.append(caller)
        return caller

    def answers(self, callers: Sequence[Caller]) -> Sequence[Any]:
        """Wait for the replies."""
        began = perf_counter()
        try:
            return answers(callers)
        except PeerCut as error:
            self._enter()
            raise Unreachable(
                f"{error.peer} is cut off: {error.reason}; look at the network between the hosts"
            ) from error
        except PeerError as error:
            self._enter()
            raise RunError(f"rank {self._rank} got no reply from {error}") from error
        finally:
            self._waited += perf_counter() - began

    def memory(self, n_bytes: int) -> Array:
        """Return the memory of this seat."""
        return [self._link.allocate(n_bytes) for _ in range(self._size)][self._rank]

    def gone(self, rank: int) -> bool:
        """Tell whether a rank asks nothing any more."""
        return bool(self._board.get(rank, FINISHED)) or self._board.lost(rank)

    def _gather_into(self, out: Array, mine: Array) -> NoReturn:
        raise RunError(f"rank {self._rank} has a role of its own in this run and makes no collective calls")

    def _sum(self, parts: Any, plan: Plan) -> Sum:
        raise AssertionError("ranks agree on it before, which they cannot")

    def _leave(self) -> None:
        for caller in self._callers:
            caller.close()
        if self._answerer is not None:
            self._answerer.close()  # who serves leaves last
            self._visits.close()
