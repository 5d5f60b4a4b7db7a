"""The sum of a round whose columns travel, bucket by bucket, while others are still computed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from tutti.comm.reduction import Layout
from tutti.protocols import Sum
from tutti.types import Array

BUCKET = 1 << 20  # bytes: smaller ones cost more calls than they save time


class Early:
    """Buckets of columns, each sent as soon as all shards of this rank have it.

    Buckets and their order follow from the layout alone, so that all ranks send the same ones in the same order,
    whatever is final first.

    Parameters
    ----------
    layout : of the rows.   begin : begins the sum of this rank's rows.   n_rows : how many there are.
    """

    def __init__(self, layout: Layout, begin: Callable[[], Sum], n_rows: int) -> None:
        self.layout, self._begin, self._n_rows = layout, begin, n_rows
        self._buckets = layout.buckets(BUCKET)
        self._by_place = sorted(range(len(self._buckets)), key=lambda i: self._buckets[i])
        self._starts = [self._buckets[i][0] for i in self._by_place]
        self._first = {name: place.start for name, place in layout.places()}
        self._sum: Sum | None = None
        self._next = 0
        self._left = self._all()

    def note(self, name: str, start: int, stop: int) -> bool:
        """Note that elements of an array are final in one row; True if a bucket can be sent."""
        lo, hi = self._first[name] + start, self._first[name] + stop
        for i in self._by_place[bisect_right(self._starts, lo) - 1 :]:
            a, b = self._buckets[i]
            if a >= hi:
                break
            self._left[i] -= min(b, hi) - max(a, lo)
        return self._next < len(self._left) and not self._left[self._next]

    def send(self) -> None:
        """Send the next buckets, as far as all rows have them."""
        while self._next < len(self._left) and not self._left[self._next]:
            self._send_next()

    def finish(self) -> Array:
        """Send the rest, now that everything is final; return the sum."""
        while self._next < len(self._buckets):
            self._send_next()
        assert self._sum is not None
        total, self._sum = self._sum.finish(), None
        self._next, self._left = 0, self._all()
        return total

    def _send_next(self) -> None:
        if self._sum is None:
            self._sum = self._begin()
        self._sum.ready(*self._buckets[self._next])
        self._next += 1

    def _all(self) -> list[int]:
        """Return how many elements of each bucket are still to come."""
        return [self._n_rows * (stop - start) for start, stop in self._buckets]
