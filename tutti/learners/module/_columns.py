"""Which columns of a net's flat weights there are, how their gradients come about, and where they may be cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tutti.learners.module._factors import Factor
from tutti.types import Matrix

_UNIT = 64  # columns are dealt in whole cache lines


@dataclass(frozen=True)
class Spot:
    """Where a parameter lies in the flat array; ``end`` is where the next one starts."""

    name: str
    start: int
    shape: tuple[int, ...]
    end: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


class Columns:
    """The columns of the weights: most get the sum of the shards' gradients, those of factors get it from rows.

    Parameters
    ----------
    spots : of all parameters, in order.   factors : the layers that give rows.
    """

    def __init__(self, spots: Sequence[Spot], factors: Sequence[Factor]) -> None:
        self._spots = spots
        self._tiles = {f.weight: f.tile * f.n_in for f in factors}
        whole = {f.bias for f in factors}
        self._whole = whole
        self.places: list[int | None] = []  # of each parameter's gradient in an update
        self.runs: list[tuple[int, int, int]] = []  # start, stop, place in an update
        at = 0
        for i, spot in enumerate(spots):
            if i in self._tiles or i in whole:
                self.places.append(None)
                continue
            self.places.append(at)
            if self.runs and self.runs[-1][1] == spot.start:
                start, _, place = self.runs.pop()
                self.runs.append((start, spot.end, place))
            else:
                self.runs.append((spot.start, spot.end, at))
            at += spot.end - spot.start
        self.n_summed = at
        self.matrices: tuple[Matrix, ...] = tuple(  # of a convolution one, outputs x the rest
            (at, spot.shape[0], math.prod(spot.shape[1:]))
            for spot, at in zip(spots, self.places, strict=True)
            if at is not None and len(spot.shape) > 1
        )

    def cut(self, part: int, parts: int) -> int:
        """Return the first column of a part; columns are cut where every cut of them gives the same bits."""
        if part == parts:
            return self._spots[-1].end
        wanted = self._spots[-1].end * part // parts
        i, spot = next((i, s) for i, s in enumerate(self._spots) if s.start <= wanted < s.end)
        unit = spot.end - spot.start if i in self._whole else self._tiles.get(i, _UNIT)
        column = spot.start + round((wanted - spot.start) / unit) * unit
        return spot.end if column >= spot.stop else column
