"""Time as an argument: the wall clock for real runs, a virtual one for tests of time-outs."""

from __future__ import annotations

import time


class WallClock:
    """Seconds of a clock that never goes back."""

    def now(self) -> float:
        return time.perf_counter()


class VirtualClock:
    """Seconds that pass only when told to.

    Example
    -------
    >>> clock = VirtualClock()
    >>> clock.advance(2.5)
    >>> clock.now()
    2.5
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; time never goes back."""
        if seconds < 0:
            raise ValueError(f"advance({seconds}) would turn the clock back")
        self._now += seconds
