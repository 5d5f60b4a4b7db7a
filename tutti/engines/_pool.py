"""Worker processes that outlive a run, so that the next fit starts in a fraction of a millisecond.

They are plain child processes with one private socket each: no main guard is needed, a REPL and a notebook do.  They
end when the caller's end of the socket closes: at `shutdown`, at exit, or because the caller is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from tutti._board import Board
from tutti.engines._wire import Inbox, anonymous_memory
from tutti.errors import RunError

_ONE_THREAD = {
    f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from tutti.engines._worker import main; main(int(sys.argv[1]))"
)
_ARENA_BYTES = 1 << 40  # address space; only touched pages cost memory
_KEPT_BYTES = 1 << 28  # a larger arena is not kept for the next run
_EXIT_SECONDS = 1.0


def surroundings() -> dict[str, Any]:
    """Return what a worker shares with the caller besides the program: import path, working directory, environment."""
    try:
        folder: str | None = os.getcwd()
    except OSError:
        folder = None  # it was removed; workers stay where they are
    return {
        "path": [p or folder for p in sys.path if isinstance(p, str) and (p or folder)],
        "folder": folder,
        "environment": {**os.environ, **_ONE_THREAD},
    }


class Member:
    """One worker process, seen from the caller."""

    def __init__(self, around: dict[str, Any]) -> None:
        if not sys.executable:
            raise RunError("this Python does not know its own executable (sys.executable); use engine=tutti.Threads()")
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(around["path"])],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=around["environment"],
                process_group=0,  # Ctrl-C in a terminal reaches the caller alone
            )
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        self.inbox = Inbox(self.sock)
        self.ready = False
        self.known = around

    def news(self, around: dict[str, Any]) -> dict[str, Any]:
        """Return what has changed around the caller since this worker was last told."""
        changed = {k: v for k, v in around.items() if self.known[k] != v}
        self.known = around
        return changed

    def exit_code(self, wait_seconds: float) -> int | None:
        """Return how the process ended, None if it has not."""
        try:
            return self.process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self, *, kill: bool) -> None:
        """End the process and reap it; without ``kill`` it gets a moment to end by itself."""
        self.sock.close()
        if kill or self.exit_code(_EXIT_SECONDS) is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def forget(self) -> None:
        """In a forked child: let go of a process that is not its own."""
        self.sock.close()
        self.process.returncode = 0  # keeps Popen from waiting for it, or warning about it
        self._close()

    def _close(self) -> None:
        self.inbox.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Arena:
    """The caller's side of a run's memory: the descriptor that workers map, and the words."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.fd = anonymous_memory(_ARENA_BYTES)
        self._map: mmap.mmap | None = None
        self._words = memoryview(b"")

    def begin(self, size: int) -> Board:
        """Return the words of a new run of ``size`` ranks, of which the members may be a part."""
        if self._map is None or len(self._words) < Board.n_words(size):
            self._unmap()
            self._map = mmap.mmap(self.fd, 8 * Board.n_words(size))
            self._words = memoryview(self._map).cast("q")
        board = Board(self._words, size)
        board.clear()
        return board

    def worth_keeping(self) -> bool:
        return os.fstat(self.fd).st_blocks * 512 <= _KEPT_BYTES

    def close(self) -> None:
        self._unmap()
        os.close(self.fd)

    def _unmap(self) -> None:
        if self._map is not None:
            self._words.release()
            self._map.close()
            self._map = None


class Pool:
    """The workers of this process: idle ones wait here for the next run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._members: list[Member] = []
        self._arena: Arena | None = None

    def lease(self, n: int, around: dict[str, Any]) -> tuple[list[Member], Arena, bool]:
        """Take n workers, starting what is missing; return them, their memory and whether they know it already."""
        with self._lock:
            dead = [m for m in self._idle if m.process.poll() is not None]
            for member in dead:
                self._drop(member, kill=True)
            taken, self._idle = self._idle[:n], self._idle[n:]
            arena, known = self._arena, True
            if arena is not None and arena.members[:n] != tuple(taken):
                arena.close()
                arena = None
            self._arena = None
        try:
            while len(taken) < n:
                member = Member(around)
                taken.append(member)
                with self._lock:
                    self._members.append(member)
            if arena is None or len(arena.members) != n:
                if arena is not None:
                    arena.close()
                arena, known = Arena(taken), False
        except BaseException:
            self.give_back([], taken, None)
            raise
        return taken, arena, known

    def renew(self, member: Member, around: dict[str, Any]) -> Member:
        """Kill and reap a leased worker and start another one in its place."""
        fresh = Member(around)
        with self._lock:
            self._drop(member, kill=True)
            self._members.append(fresh)
        return fresh

    def give_back(self, fine: Sequence[Member], broken: Sequence[Member], arena: Arena | None) -> None:
        """Take workers back after a run; the broken ones are killed and reaped."""
        with self._lock:
            for member in broken:
                self._drop(member, kill=True)
            self._idle = [m for m in self._members if m in fine or m in self._idle]
            keep = arena is not None and not broken and self._arena is None and arena.worth_keeping()
            if keep:
                self._arena = arena
        if arena is not None and not keep:
            arena.close()

    def pids(self) -> list[int]:
        with self._lock:
            return [m.pid for m in self._members]

    def shutdown(self, *, busy: bool) -> None:
        """End the idle workers, and those of runs that go on if ``busy``."""
        with self._lock:
            members = list(self._members) if busy else list(self._idle)
            for member in members:
                member.sock.close()  # all at once: they end side by side
            for member in members:
                self._drop(member, kill=busy)
            if self._arena is not None:
                self._arena.close()
                self._arena = None

    def forget(self) -> None:
        """In a forked child: the workers belong to the parent."""
        self._lock = threading.Lock()
        for member in self._members:
            with contextlib.suppress(OSError):
                member.forget()
        self._members, self._idle = [], []
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _drop(self, member: Member, *, kill: bool) -> None:
        if member in self._idle:
            self._idle.remove(member)
        self._members.remove(member)
        member.end(kill=kill)


POOL = Pool()
atexit.register(POOL.shutdown, busy=True)
os.register_at_fork(after_in_child=POOL.forget)
