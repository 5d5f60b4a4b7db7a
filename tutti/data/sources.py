"""Sources that are already numbers: arrays of the caller, and files whose rows were counted or decoded before.

The readers of files live in `tutti.data.formats`; all of them fit `tutti.protocols.Source`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tutti.protocols import Part, Piece, Source
from tutti.types import Array, Csr


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Rows that lie in memory: one piece, never copied and never written to.

    Parameters
    ----------
    x : (n_rows, n_features) float array in C or F order, or `Csr`.
    y : (n_rows,) labels or targets as numbers or text; None for prediction data.
    weight : (n_rows,) float64 sample weights, or None.
    names : column names, or None.
    origin : the files these rows were decoded from, in the same order, so that errors can name a line.
    """

    x: Any
    y: Array | None = None
    weight: Array | None = None
    names: tuple[str, ...] | None = None
    origin: CountedSource | None = None

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self.names

    def pieces(self) -> tuple[Piece, ...]:
        """Return the one piece that holds all rows."""
        n_bytes = self.x.values.nbytes + self.x.indices.nbytes if isinstance(self.x, Csr) else self.x.nbytes
        n_rows = self.x.shape[0]
        return (Piece(0, "", 0, n_rows, n_bytes, n_rows),)

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        """Return views of the arrays."""
        x = self.x
        if n_features is not None and isinstance(x, Csr) and n_features != x.n_features:
            x = Csr(x.indptr, x.indices, x.values, n_features)
        return Part(x, self.y, self.weight)


@dataclass(frozen=True)
class CountedSource:
    """Files whose pieces were counted by a scan, so that a worker plans its rows without reading.

    Parameters
    ----------
    source : what reads the files.
    counted : its pieces with ``n_rows`` filled in.
    """

    source: Any
    counted: tuple[Piece, ...]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        names: tuple[str, ...] | None = self.source.feature_names
        return names

    def pieces(self) -> tuple[Piece, ...]:
        """Return the counted pieces."""
        return self.counted

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        """Read through the source."""
        part: Part = self.source.read(piece, n_features)
        return part


def place_of(source: Source, pieces: Sequence[Piece], row: int) -> tuple[str | None, int]:
    """Return (file, line) of a row of the source; (None, row) for arrays.

    A source that can name lines has a method ``line(piece, row)``; otherwise the row inside the piece is returned.
    """
    if isinstance(source, ArraySource):
        if source.origin is None:
            return None, row
        return place_of(source.origin.source, source.origin.counted, row)
    if isinstance(source, CountedSource):
        return place_of(source.source, source.counted, row)
    ends = list(accumulate(p.n_rows or 0 for p in pieces))
    p = bisect_right(ends, row)
    inside = row - (ends[p - 1] if p else 0)
    line = getattr(source, "line", None)
    return pieces[p].path, line(pieces[p], inside) if line is not None else inside
