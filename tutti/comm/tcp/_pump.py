"""Moves bytes over the connections of a rank, whichever thread has time for it: the one that waits for them, or, while
that one computes, a second one.

Every operation has a number, the same on all ranks, which its frames carry as their kind: bytes of another operation,
or of another length, are refused before they are written anywhere.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic

from tutti._frames import Channel, PeerError

_TURN_SECONDS = 1.0
_KINDS = 1 << 32


class Transfer:
    """An operation under way: what is still to come and to go, by rank."""

    def __init__(self, kind: int, goes: set[int]) -> None:
        self.kind, self.comes, self.goes = kind, set[int](), goes
        self.error: PeerError | None = None

    @property
    def done(self) -> bool:
        return not self.comes and not self.goes


class _Peer:
    """One connection, the memory for what comes next on it, and who waits for what was posted."""

    def __init__(self, rank: int, channel: Channel) -> None:
        self.rank, self.channel = rank, channel
        self.due: deque[tuple[int, memoryview, Transfer]] = deque()  # frames that have not begun to arrive
        self.coming: deque[Transfer] = deque()  # frames that have
        self.going: deque[tuple[int, Transfer]] = deque()
        self.error: PeerError | None = None
        channel.place = self.place

    @property
    def busy(self) -> bool:
        return self.error is None and bool(self.due or self.coming or self.going)

    def place(self, kind: int, length: int) -> memoryview | None:
        if not self.due:
            return None  # that rank is ahead; its bytes wait in the system
        number, memory, transfer = self.due[0]
        if kind != number or length != len(memory):
            raise ValueError(f"{length} bytes of operation {kind}; {len(memory)} bytes of operation {number} are due")
        self.due.popleft()
        self.coming.append(transfer)
        return memory

    def look(self) -> None:
        """Notice that nothing comes through any more."""
        try:
            self.channel.look()
        except PeerError as error:
            self._fail(error)

    def pump(self) -> bool:
        """Move what can be moved; True if there is more."""
        try:
            messages, more = self.channel.pump()
        except PeerError as error:
            self._fail(error)
            return False
        for _ in messages:
            self.coming.popleft().comes.discard(self.rank)
        while self.going and self.channel.sent_bytes >= self.going[0][0]:
            self.going.popleft()[1].goes.discard(self.rank)
        return more

    def _fail(self, error: PeerError) -> None:
        self.error = error
        while self.going and self.channel.sent_bytes >= self.going[0][0]:
            self.going.popleft()[1].goes.discard(self.rank)
        for transfer in [*(t for _, _, t in self.due), *self.coming, *(t for _, t in self.going)]:
            transfer.error = error


class Pump:
    """The connections of a rank.

    Parameters
    ----------
    channels : one to each other rank.
    """

    def __init__(self, channels: Mapping[int, Channel]) -> None:
        self._peers = {rank: _Peer(rank, channel) for rank, channel in channels.items()}
        self._n = 0
        self._lock = threading.RLock()  # what clears up may run in the middle of anything
        self._away = threading.Event()  # set: the helper may have the connections
        self._knock, self._door = socket.socketpair()
        self._knock.setblocking(False)
        self._door.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._door, select.POLLIN)
        self._owners = {peer.channel.fileno(): peer for peer in self._peers.values()}
        self._watched: dict[int, int] = {}
        self._more: list[_Peer] = []
        self._helper: threading.Thread | None = None
        self._closed = False

    def start(self, sends: Mapping[int, Sequence[memoryview]]) -> Transfer:
        """Start to send bytes to ranks; the memory must stay as it is until it is done."""
        with self._held():
            transfer = Transfer(self._n % _KINDS, set(sends))
            self._n += 1
            for rank, pieces in sends.items():
                peer = self._peers[rank]
                peer.channel.post(transfer.kind, *pieces)
                peer.going.append((peer.channel.posted_bytes, transfer))
            self._move(transfer, sends)
        return transfer

    def expect(self, transfer: Transfer, receives: Mapping[int, memoryview]) -> None:
        """Receive what ranks send in an operation; those that began before it must have been told theirs."""
        with self._held():
            transfer.comes.update(receives)
            for rank, memory in receives.items():
                self._peers[rank].due.append((transfer.kind, memory, transfer))
            self._move(transfer, receives)

    def _move(self, transfer: Transfer, ranks: Iterable[int]) -> None:
        for rank in ranks:
            peer = self._peers[rank]
            if peer.error is not None:
                transfer.error = peer.error
            elif peer not in self._more:
                self._more.append(peer)  # also for what waits inside TLS, of which the system knows nothing
        self._turn(0.0)

    def wait(self, transfer: Transfer, seconds: float) -> bool:
        """Move bytes for so long at most; True as soon as the transfer is done or has failed."""
        with self._held():
            deadline = monotonic() + seconds
            while not transfer.done and transfer.error is None:
                left = deadline - monotonic()
                if left <= 0:
                    return False
                self._turn(left)
        return True

    def look(self) -> None:
        """Notice connections, of those that are waited for, on which nothing comes through any more."""
        with self._held():
            for peer in self._peers.values():
                if peer.busy:
                    peer.look()

    def carry_on(self) -> None:
        """Have the helper move bytes from now on, until this thread calls again."""
        if self._idle():
            return
        if self._helper is None:
            self._helper = threading.Thread(target=self._help, name="tutti-tcp", daemon=True)
            self._helper.start()
        self._away.set()

    def close(self) -> None:
        """Close the connections; twice is harmless."""
        with self._held():
            if self._closed:
                return
            self._closed = True
            for peer in self._peers.values():
                peer.channel.close()
        self._away.set()
        if self._helper is not None and self._helper is not threading.current_thread():
            self._helper.join()
        self._knock.close()
        self._door.close()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Have the connections to oneself."""
        self._away.clear()
        if not self._lock.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._knock.send(b"!")
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _help(self) -> None:
        while True:
            self._away.wait()
            with self._lock:
                if self._closed:
                    return
                while self._away.is_set() and not self._idle():
                    self._turn(_TURN_SECONDS)
                self._away.clear()

    def _idle(self) -> bool:
        return self._closed or not any(peer.busy for peer in self._peers.values())

    def _turn(self, seconds: float) -> None:
        """Wait so long at most until bytes can be moved, and move them."""
        for fd, peer in self._owners.items():
            self._watch(fd, peer)
        ready = self._poll.poll(0.0 if self._more else seconds * 1e3)
        pumped, self._more = self._more, []
        for fd, _ in ready:
            if fd == self._door.fileno():
                self._door.recv(64)
                continue
            peer = self._owners[fd]
            if peer not in pumped:
                pumped.append(peer)
        for peer in pumped:
            if peer.error is None and peer.pump():
                self._more.append(peer)

    def _watch(self, fd: int, peer: _Peer) -> None:
        """Wait for what a connection needs to get on; for nothing, while nobody here asks anything of it."""
        wanted = peer.channel.interest if peer.busy else 0
        if wanted == self._watched.get(fd, 0):
            return
        if wanted:
            self._poll.register(fd, wanted)
        else:
            self._poll.unregister(fd)
        self._watched[fd] = wanted
