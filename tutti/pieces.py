"""The door of data: a source, cut into pieces that can be read on their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """Part of a source that can be read on its own, planned without reading.

    Parameters
    ----------
    index : position in the source.
    path : file it lies in; "" for arrays.
    start, stop : bytes of a text file (newline-aligned by the reader: a line belongs to the piece in which it starts),
        row groups of a Parquet file, or rows of an array.
    n_bytes : size where it is stored.
    n_rows : known row count, or None before the scan.
    """

    index: int
    path: str
    start: int
    stop: int
    n_bytes: int
    n_rows: int | None = None


@dataclass(frozen=True)
class Part:
    """A decoded piece.  ``y`` holds raw labels: float64, or an object/str array; None if the source has none."""

    x: Any
    y: Array | None
    weight: Array | None = None


@runtime_checkable
class Source(Protocol):
    """Which bytes are read by whom?  An inert description of files or arrays that any worker can read from.

    Contract
    --------
    - ``pieces`` reads no data (a directory listing, file sizes and footers are fine) and is stable.
    - ``read(piece)`` returns all rows of the piece, each row of the source in exactly one piece; reading twice gives
      the same bits.  ``n_features`` widens sparse rows to a common width; None means "as wide as the piece is".
    - A broken byte raises `DataError` with file, line or row, and column.
    """

    @property
    def feature_names(self) -> tuple[str, ...] | None: ...
    def pieces(self) -> Sequence[Piece]: ...
    def read(self, piece: Piece, n_features: int | None = None) -> Part: ...
