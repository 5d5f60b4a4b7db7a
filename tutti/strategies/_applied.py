"""Which items a server has applied, so that none counts twice and a pull knows what is in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Applied:
    """Items (step * parts + part) in any order.

    Parameters
    ----------
    parts : items of a step.
    first : everything before this step counts as applied.
    """

    def __init__(self, parts: int, first: int = 0) -> None:
        self._parts, self._all = parts, (1 << parts) - 1
        self._first, self._masks = first, dict[int, int]()

    def add(self, item: int) -> bool:
        """Take note of an item; False if it was there."""
        if item in self:
            return False
        step, part = divmod(item, self._parts)
        self._masks[step] = self._masks.get(step, 0) | 1 << part
        while self._masks.get(self._first) == self._all:
            del self._masks[self._first]
            self._first += 1
        return True

    def __contains__(self, item: int) -> bool:
        step, part = divmod(item, self._parts)
        return step < self._first or bool(self._masks.get(step, 0) >> part & 1)

    def skip(self, step: int) -> None:
        """Count everything before ``step`` as applied: workers that are gone have left something out."""
        if step > self._first:
            self._first = step
            self._masks = {s: mask for s, mask in self._masks.items() if s >= step}

    def until(self, without: Iterable[int] = ()) -> int:
        """Return the first step that is not complete, whoever does not count the parts ``without``."""
        left = sum(1 << part for part in set(without))
        step = self._first
        while self._masks.get(step, 0) | left == self._all and (step in self._masks):
            step += 1
        return step

    def written(self) -> list[int]:
        """Return what `read` takes: the first incomplete step, then its items and those of later steps."""
        n = self._parts
        return [self._first, *(s * n + p for s, mask in sorted(self._masks.items()) for p in range(n) if mask >> p & 1)]

    @classmethod
    def read(cls, parts: int, written: Collection[int]) -> Applied:
        """Return what was `written`."""
        first, *items = written
        found = cls(parts, first)
        for item in items:
            found.add(item)
        return found
