"""Which rank speaks for all: writes the checkpoints and returns the model.

Rank 0; in a run that tolerates lost ranks the lowest one that is not lost, so that the model crosses the wire once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tutti._board import WAITING, Board
from tutti.errors import Aborted
from tutti.protocols import RankContext
from tutti.runtime.checkpoint import Writer
from tutti.types import Arrays

_LOOKS = (2e-4, 1e-2)  # seconds between the first two looks, and at most


class Speaker:
    """What a rank asks before it speaks for all.

    Parameters
    ----------
    context : of this rank.
    tolerant : other ranks may be lost while the run goes on.
    write : makes what writes checkpoints, on the rank that does; None if there are none.
    """

    def __init__(self, context: RankContext, tolerant: bool, write: Callable[[], Writer] | None = None) -> None:
        self._tolerant, self._write, self._rank = tolerant, write, context.seat.rank
        self._board: Board = context.link.board
        self._lower = range(context.seat.rank)
        self._writer = write() if write is not None and not self._lower else None

    def speaks(self) -> bool:
        """True if every lower rank is lost."""
        return not self._lower or (self._tolerant and all(map(self._board.lost, self._lower)))

    @property
    def writes(self) -> bool:
        """True if this rank writes the checkpoints, if any are."""
        return self._write is not None and self.speaks()

    def offer(self, step: int, state: Callable[[], Arrays], best: bool = False) -> None:
        """Offer the state for a checkpoint; only the rank that speaks writes it."""
        if self.writes:
            self._ready().offer(step, state, best)

    def overdue(self) -> bool:
        """Tell whether the clock of the rank that writes asks for a checkpoint."""
        return self.writes and self._ready().overdue()

    def write(self, step: int, state: Callable[[], Arrays], best: bool = False) -> None:
        """Write the state after ``step``."""
        self._ready().write(step, state, best)

    def _ready(self) -> Writer:
        if self._writer is None:
            assert self._write is not None
            self._writer = self._write()
        return self._writer

    def returns(self) -> bool:
        """Return whether this rank is the one that returns the model; waits until that is certain.

        A lower rank that is still at work may be lost before it has returned, so this one keeps the model until then.
        """
        if not self._tolerant:
            return self.speaks()
        self._board.set(self._rank, WAITING, 1)
        nap, longest = _LOOKS
        for rank in self._lower:
            while not self._board.lost(rank):
                if self._board.returned(rank):
                    return False
                if self._board.aborted():
                    raise Aborted(f"rank {self._rank}: the run was stopped while it waited for rank {rank} to return")
                time.sleep(nap)
                nap = min(1.5 * nap, longest)
        return True

    def wait(self) -> None:
        """Return when the checkpoints that were begun are written."""
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Wait for the thread that writes."""
        if self._writer is not None:
            self._writer.close()
