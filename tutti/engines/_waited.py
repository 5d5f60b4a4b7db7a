"""What the caller's side of a run does wherever its ranks live: wait for them, and end them early."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tutti._board import Board
from tutti.clock import WallClock
from tutti.engines._judge import Done, Exited, Raised, Silent, Verdict
from tutti.types import Event


class WaitedRun(ABC):
    """A `tutti.protocols.Run` whose ranks come back one by one.

    Parameters
    ----------
    size : number of ranks.
    """

    board: Board

    def __init__(self, size: int) -> None:
        self.size = size
        self._clock = WallClock()
        self._values: list[Any] = [None] * size
        self._away: set[int] = set(range(size))
        self._over = False
        self._waiter: int | None = None

    def results(self, watch: Callable[[Event], None] | None = None) -> list[Any]:
        """Wait for all ranks and return their values by rank; see `tutti.protocols.Run`."""
        if self._over:
            raise RuntimeError("this run is over; launch the program again")
        self._waiter = threading.get_ident()
        try:
            verdict = self._wait(watch)
            fault = None if isinstance(verdict, Done) else self._error(verdict)
        except BaseException:
            self.stop()
            raise
        if fault is None:
            self._over = True
            self._leave()
            return self._values
        if isinstance(verdict, Silent):
            self._kill(verdict.rank)  # it will not come back by itself; a stopped process dies too
        self.stop()
        raise fault

    def stop(self) -> None:
        """End the run early: ranks that do not come back within a second are killed.

        A thread that waits in ``results()`` meanwhile gets `Aborted`.
        """
        if self._over:
            return
        self.board.abort()
        if self._waiter not in (None, threading.get_ident()):
            return  # the thread that waits sees the ranks come back, and clears up
        self._over = True
        self._end()

    @abstractmethod
    def _wait(self, watch: Callable[[Event], None] | None) -> Verdict:
        """Return how the run ended."""

    @abstractmethod
    def _error(self, verdict: Raised | Exited | Silent) -> Exception:
        """Return the exception for the caller."""

    @abstractmethod
    def _kill(self, rank: int) -> None:
        """End a rank that is silent."""

    @abstractmethod
    def _leave(self) -> None:
        """Let go of the ranks, all of which have come back."""

    @abstractmethod
    def _end(self) -> None:
        """Wait for the ranks, which have been told to stop, for a moment, and let go of them."""
