"""Rows decoded by several threads, put into one allocation in the order of the pieces.

The place of a piece is known as soon as all pieces before it are decoded, so every row is copied once and nothing is
held twice.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tutti.data.memory import available_bytes
from tutti.types import Array, Csr


class Gather:
    """Collects the rows of pieces 0, 1, 2, ... as long as they fit into ``limit`` bytes.

    Pieces are put by several threads, each of which starts its pieces in rising order: the thread with the lowest
    piece never waits, hence the others do not wait for ever.

    Parameters
    ----------
    limit : bytes that the rows may take; beyond it nothing is kept, since a part of the rows is of no use.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turn = threading.Condition()
        self._open = limit > 0
        self._next = self._n_values = 0
        self._arrays: tuple[Array, ...] = ()
        self._width = 0
        self._ends: list[Array] = []

    def put(self, index: int, x: Array | Csr) -> None:
        """Copy the rows of piece ``index``; waits until all pieces before it have been put."""
        parts = (x.values, x.indices) if isinstance(x, Csr) else (x.reshape(-1),)
        with self._turn:
            self._turn.wait_for(lambda: self._next == index or not self._open)
            if not self._open:
                return
            lo, hi = self._n_values, self._n_values + len(parts[0])
            self._reserve(x, parts, hi)
            self._next += 1
            self._turn.notify_all()
            targets = self._arrays
        for target, part in zip(targets, parts, strict=False):
            target[lo:hi] = part

    def _reserve(self, x: Array | Csr, parts: tuple[Array, ...], hi: int) -> None:
        if not self._arrays:
            # pages that are never written to cost nothing, so there is room for all that may come
            room = min(self._limit, available_bytes()) // sum(p.itemsize for p in parts)
            self._arrays = tuple(np.empty(room, dtype=p.dtype) for p in parts)
            self._width = x.shape[1]
        if isinstance(x, Csr):
            self._ends.append(x.indptr[1:] + self._n_values)
        elif x.shape[1] != self._width:
            self._stop()
        if self._arrays and hi > len(self._arrays[0]):
            self._stop()
        self._n_values = hi

    def _stop(self) -> None:
        self._open = False
        self._arrays = ()

    def stop(self) -> None:
        """Keep nothing and let no thread wait: a piece could not be read."""
        with self._turn:
            self._stop()
            self._turn.notify_all()

    def whole(self, n_features: int) -> Array | Csr | None:
        """Return all rows, or None if they were not kept; called once, after the last piece."""
        arrays: Any = self._arrays
        self._arrays = ()
        if not arrays:
            return None
        for array in arrays:
            array.resize(self._n_values, refcheck=False)  # gives the room that was not needed back, in place
        if self._ends:
            indptr = np.concatenate([np.zeros(1, dtype=np.int64), *self._ends])
            return Csr(indptr, arrays[1], arrays[0], n_features)
        found: Array = arrays[0].reshape(-1, n_features)
        return found
