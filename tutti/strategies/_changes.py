"""What pushes have changed of a key range, so that who pulls is sent that alone."""

from __future__ import annotations

from collections import deque

import numpy as np

from tutti.types import Array


class Changes:
    """Which features each version of a range has changed, as far back as that is worth its memory.

    Parameters
    ----------
    most : features; who misses more than these is better off with the whole range.
    """

    def __init__(self, most: int) -> None:
        self._most, self._n = most, 0
        self._log: deque[tuple[int, Array]] = deque()
        self._first = -1  # what came after this version is known

    def note(self, version: int, touched: Array | None) -> None:
        """Take note of what led to a version; None: it may be anything."""
        if touched is None:
            self._log.clear()
            self._first, self._n = version, 0
            return
        self._log.append((version, np.array(touched)))
        self._n += len(touched)
        while self._n > self._most:
            self._first, oldest = self._log.popleft()
            self._n -= len(oldest)

    def since(self, version: int) -> Array | None:
        """Return the features that have changed since a version, in any order; None if that is not known."""
        if version < self._first:
            return None
        found = [touched for at, touched in self._log if at > version]
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found)) if found else None
