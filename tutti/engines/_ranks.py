"""Worker processes of this host on seats of a run: what they are told, what they say, how they end.

Used by whoever started them: the caller itself (`tutti.Processes`), or on another host what speaks with the caller.
"""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutti._board import Board
from tutti.engines import _wire
from tutti.engines._pool import POOL, Member, surroundings

_REAP_SECONDS = 0.5


@dataclass(frozen=True)
class Gone:
    """The process of a rank ended: exit code, or minus the signal; ``ready`` if it had started by then."""

    code: int | None
    ready: bool


Said = tuple[int, "_wire.Frame | Gone"]
"""A rank, and what came from it."""


class Ranks:
    """Leased worker processes by rank.

    Parameters
    ----------
    ranks : that live here.   size : ranks of the whole run.
    """

    def __init__(self, ranks: Sequence[int], size: int) -> None:
        self._around = surroundings()
        leased, self._arena, self._known = POOL.lease(len(ranks), self._around)
        self.members: dict[int, Member] = dict(zip(ranks, leased, strict=True))
        self.poll = select.poll()
        self._owners: dict[int, int] = {}
        self._ended: set[int] = set()
        try:
            self.board: Board = self._arena.begin(size)
        except BaseException:
            self.close([])
            raise

    def begin(
        self, rank: int, order: Mapping[str, Any], program: _wire.Parcel, listening: tuple[int, ...] = ()
    ) -> None:
        """Tell a worker who it is and what to run; ``listening`` are descriptors that travel with it."""
        member = self.members[rank]
        for fd in (member.sock.fileno(), member.pidfd):
            if fd >= 0:
                self.poll.register(fd, select.POLLIN)
                self._owners[fd] = rank
        seat = _wire.pack({**order, "arena": not self._known, "surroundings": member.news(self._around)})
        try:
            _wire.send(member.sock, _wire.SEAT, seat, (*(() if self._known else (self._arena.fd,)), *listening))
            _wire.send(member.sock, _wire.PROGRAM, program)
        except OSError:
            pass  # it has just died; who listens will hear of it
        finally:
            seat.close()

    def listen(self, seconds: float) -> list[Said]:
        """Wait for something to come, from the ranks or whoever else is registered; return what the ranks said."""
        said: list[Said] = []
        ranks = {self._owners[fd] for fd, _ in self.poll.poll(max(seconds, 0.0) * 1e3) if fd in self._owners}
        for rank in sorted(ranks):
            member = self.members[rank]
            said += self._read(rank)
            if not (member.inbox.closed or member.process.poll() is not None):
                continue
            code = member.exit_code(_REAP_SECONDS)
            while not member.inbox.closed and (more := self._read(rank)):
                said += more  # what it still said before it died
            said.append((rank, Gone(code, member.ready)))
            self._ended.add(rank)
            self._forget(rank)
        return said

    def renew(self, rank: int) -> None:
        """Put a fresh process in the place of one that has ended; it knows nothing of the run's memory yet."""
        self._around = surroundings()
        self.members[rank] = POOL.renew(self.members[rank], self._around)
        self._known = False
        self._ended.discard(rank)

    def kill(self, rank: int) -> None:
        """End the process of a rank, frozen or not, and reap it."""
        self._forget(rank)
        self.members[rank].process.kill()
        self.members[rank].process.wait()
        self._ended.add(rank)

    def close(self, fine: Sequence[int]) -> None:
        """Give the workers back: the ``fine`` ones wait for the next run, the others are killed."""
        here = set(fine) - self._ended
        kept = [member for rank, member in self.members.items() if rank in here and member.ready]
        POOL.give_back(kept, [m for m in self.members.values() if m not in kept], self._arena)

    def _read(self, rank: int) -> list[Said]:
        said: list[Said] = []
        for frame in self.members[rank].inbox.receive():
            if frame.kind == _wire.READY:
                self.members[rank].ready = True
                frame.close()
            else:
                said.append((rank, frame))
        return said

    def _forget(self, rank: int) -> None:
        """Listen no longer to the worker of a rank."""
        for fd in [fd for fd, owner in self._owners.items() if owner == rank]:
            self.poll.unregister(fd)
            del self._owners[fd]
