"""Ranks as threads of this process: nothing is copied, nothing is started that outlives the fit.

Fit for kernels that let go of the interpreter (all of ours do) and for a debugger: with one worker the program runs in
the caller's own thread.
"""

from __future__ import annotations

import ctypes
import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._board import ARRIVED, BEAT, FINISHED, RETURNED, STEP, WAITING, Board
from tutti._spec import Spec, resolve
from tutti.clock import WallClock
from tutti.engines._common import LOOK_SECONDS, aborted, check, describe, places, silent, stopped
from tutti.engines._judge import Done, Judge, Raised, Returned, Sign, Silent
from tutti.engines._limits import one_openmp_thread, one_thread
from tutti.errors import Aborted, InputError, RankError
from tutti.protocols import Program, ThreadLink
from tutti.types import Array, Event, Place, Plan, Seat

_GRACE_SECONDS = 0.5  # how long a stopped rank may take to notice; then Python itself interrupts it


@dataclass(frozen=True)
class Threads(Spec):
    """Run ranks as threads of this process.

    Parameters
    ----------
    n : number of workers; None means one per core this process may use.
    timeout_seconds : a rank that neither takes a step nor joins the others for so long, while they wait, is lost.

    Example
    -------
    >>> Threads(2).get_params()
    {'n': 2, 'timeout_seconds': 600.0}
    """

    n: int | None = None
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        check(self.n, timeout_seconds=self.timeout_seconds)

    def places(self) -> Sequence[Place]:
        """Return one place per worker on this host."""
        return places(self.n)

    def launch(self, program: Program, plan: Plan) -> ThreadRun:
        """Start the program on every seat of the plan and return at once.

        With one seat it starts in ``results()``, in the caller's thread.  A thread cannot be ended from outside, so a
        silent rank ends a tolerant run, too.
        """
        return ThreadRun(program, plan.seats, self.timeout_seconds)


class _Room:
    """What the ranks of one run share."""

    def __init__(self, size: int) -> None:
        self.board = Board(memoryview(bytearray(8 * Board.n_words(size))).cast("q"), size)
        self.board.clear()
        self._lock = threading.Lock()
        self._memory: dict[tuple[int, int], Array] = {}
        self._objects: dict[str, Any] = {}
        self._wakes: list[Callable[[], None]] = []

    def allocate(self, where: int, n_bytes: int) -> Array:
        with self._lock:
            found = self._memory.get((where, n_bytes))
            if found is None:
                raw = np.empty(n_bytes + 64, np.uint8)
                skip = -raw.__array_interface__["data"][0] % 64
                found = self._memory[where, n_bytes] = raw[skip : skip + n_bytes]
            return found

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._objects:
                self._objects[name] = make()
            return self._objects[name]

    def on_change(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake not in self._wakes:
                self._wakes.append(wake)
        wake()

    def changed(self) -> None:
        with self._lock:
            wakes = list(self._wakes)
        for wake in wakes:
            wake()


class _ThreadLink:
    transport = "threads"

    def __init__(self, room: _Room, rank: int, size: int) -> None:
        self.rank, self.size, self.board = rank, size, room.board
        self.share, self.on_change = room.share, room.on_change
        self._room, self._allocated, self._locks = room, 0, 0

    def allocate(self, n_bytes: int) -> Array:
        where, self._allocated = self._allocated, self._allocated + n_bytes
        return self._room.allocate(where, n_bytes)

    def lock(self) -> AbstractContextManager[object]:
        lock: AbstractContextManager[object] = self.share("lock", threading.Lock)
        return lock

    def locks(self, n: int) -> list[AbstractContextManager[object]]:
        first, self._locks = self._locks, self._locks + n
        return [self.share(f"lock {first + i}", threading.Lock) for i in range(n)]

    def abort(self) -> None:
        self.board.abort()
        self._room.changed()


class _Context:
    def __init__(self, seat: Seat, link: _ThreadLink, emit: Callable[[Event], None]) -> None:
        self.seat, self.link, self._emit = seat, link, emit

    def emit(self, event: Event) -> None:
        self._emit(event)
        self._go_on()

    def at_step(self, step: int) -> None:
        board, rank = self.link.board, self.link.rank
        board.set(rank, STEP, step)
        board.set(rank, BEAT, board.get(rank, BEAT) + 1)
        self._go_on()

    def _go_on(self) -> None:
        if self.link.board.aborted():
            raise aborted(self.link.rank)


def links(size: int) -> list[ThreadLink]:
    """Return the links of ``size`` ranks that the caller runs in threads of its own (tests, notebooks)."""
    room = _Room(size)
    return [_ThreadLink(room, rank, size) for rank in range(size)]


class ThreadRun:
    """A `tutti.protocols.Run` on threads."""

    def __init__(self, program: Program, seats: Sequence[Seat], timeout_seconds: float) -> None:
        try:
            self._function = resolve(program.function)
        except (ImportError, AttributeError) as error:
            raise InputError(f"the program {program.function!r} cannot be imported: {error}") from error
        self._arguments, self._seats, self._timeout = program.arguments, seats, timeout_seconds
        self._size = len(seats)
        self._room = _Room(self._size)
        self._clock = WallClock()
        self._inbox: queue.SimpleQueue[Returned | Raised | Event] = queue.SimpleQueue()
        self._values: list[Any] = [None] * self._size
        self._threads: list[threading.Thread] = []
        self._limits = ExitStack()
        self._over = False
        self._waiter: int | None = None
        if self._size > 1:
            self._limits.enter_context(one_thread())
            try:
                for seat in seats:
                    name = f"tutti-rank-{seat.rank}"
                    thread = threading.Thread(target=self._run_rank, args=(seat,), name=name, daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except BaseException:
                self.stop()
                raise

    def results(self, watch: Callable[[Event], None] | None = None) -> list[Any]:
        """Wait for all ranks and return their values by rank; see `tutti.protocols.Run`."""
        if self._over:
            raise RuntimeError("this run is over; launch the program again")
        self._waiter = threading.get_ident()
        try:
            with self._limits:
                if self._size == 1:
                    verdict: Any = self._run_here(watch)
                else:
                    verdict = self._watch(watch)
                if isinstance(verdict, Done):
                    for thread in self._threads:
                        thread.join()
                    return self._values
                self._end()
        except BaseException:
            self._end()
            raise
        finally:
            self._over = True
        raise self._error(verdict)

    def stop(self) -> None:
        """End the run early; returns when its threads have ended, or after about a second.

        A thread that waits in ``results()`` meanwhile gets `Aborted`.
        """
        if self._over:
            return
        if self._waiter not in (None, threading.get_ident()):
            self._room.board.abort()
            self._room.changed()
            return  # the thread that waits sees the ranks come back, and clears up
        try:
            self._end()
        finally:
            self._over = True
            self._limits.close()

    def _run_rank(self, seat: Seat) -> None:
        """Body of a rank's thread."""
        rank = seat.rank
        try:
            try:
                with one_openmp_thread():
                    context = _Context(seat, _ThreadLink(self._room, rank, self._size), self._inbox.put)
                    self._values[rank] = self._function(context, **self._arguments)
                self._room.board.finish(rank)
                self._room.board.settle(rank, RETURNED)
                self._inbox.put(Returned(rank))
            except BaseException as error:
                self._inbox.put(Raised(rank, isinstance(error, Aborted), error))
            self._room.changed()
        except Aborted:
            pass  # an interrupt from `_end` that came when the rank had already finished

    def _run_here(self, watch: Callable[[Event], None] | None) -> Done | Raised:
        (seat,) = self._seats
        refused: list[Exception] = []

        def emit(event: Event) -> None:
            try:
                if watch is not None:
                    watch(event)
            except Exception as error:
                refused.append(error)
                raise

        with one_thread(), one_openmp_thread():
            try:
                context = _Context(seat, _ThreadLink(self._room, 0, 1), emit)
                self._values[0] = self._function(context, **self._arguments)
            except (Exception, SystemExit) as error:
                if error in refused:
                    raise  # the caller's own, not the rank's
                return Raised(0, isinstance(error, Aborted), error)
        return Done()

    def _watch(self, watch: Callable[[Event], None] | None) -> Any:
        judge = Judge(self._size, self._timeout, self._clock.now(), look_seconds=2 * LOOK_SECONDS)
        looked = judge.now
        while True:
            facts: list[Any] = []
            try:
                facts.append(self._inbox.get(timeout=LOOK_SECONDS))
                while not self._inbox.empty():
                    facts.append(self._inbox.get())
            except queue.Empty:
                pass
            for fact in facts:
                if isinstance(fact, Returned | Raised):
                    judge.hear(fact)
                elif watch is not None:
                    watch(fact)
                    if self._over:
                        raise stopped()
            now = self._clock.now()
            somebody_waits = now - looked >= LOOK_SECONDS and self._hear_signs(judge)
            looked = now if now - looked >= LOOK_SECONDS else looked
            verdict = judge.look(now, somebody_waits)
            if verdict is not None:
                return verdict

    def _hear_signs(self, judge: Judge) -> bool:
        """Tell the judge how far every rank is; return whether one waits for the others."""
        board, waiting = self._room.board, False
        for rank in range(self._size):
            idle = bool(board.get(rank, WAITING) or board.get(rank, FINISHED))
            waiting = waiting or idle
            judge.hear(Sign(rank, board.get(rank, ARRIVED) + (board.get(rank, BEAT) << 32), excused=idle))
        return waiting

    def _end(self) -> None:
        """Stop the ranks: wake those that wait, then interrupt those that run Python, then leave them."""
        self._room.board.abort()
        self._room.changed()
        deadline = self._clock.now() + _GRACE_SECONDS
        for attempt in range(2):
            for thread in self._threads:
                thread.join(max(deadline - self._clock.now(), 0.0))
            alive = [t for t in self._threads if t.is_alive()]
            if not alive:
                break
            if attempt == 0:
                for thread in alive:
                    ident = ctypes.c_ulong(thread.ident or 0)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Aborted))
                deadline = self._clock.now() + _GRACE_SECONDS

    def _error(self, verdict: Raised | Silent) -> BaseException:
        rank, host, pid = verdict.rank, socket.gethostname(), os.getpid()
        step = self._room.board.get(rank, STEP)
        if isinstance(verdict, Silent):
            stuck = self._threads[rank].is_alive()
            more = " while others wait for it" + (
                "; its thread is inside a call that cannot be stopped" if stuck else ""
            )
            return silent(rank, host, pid, step, verdict.seconds, more)
        error: BaseException = verdict.failure
        if verdict.secondary:
            return stopped()
        if isinstance(error, InputError):
            return error
        lost = RankError(rank, host, pid, step, *describe(error))
        lost.__cause__ = error
        return lost
