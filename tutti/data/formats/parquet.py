"""Parquet in runs of row groups, read by pyarrow; footers alone are read to plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tutti.data import filesystem
from tutti.data.formats.columns import Roles, check_finite, first_null, like_first, roles, to_rows
from tutti.data.formats.libsvm import check_dtype
from tutti.errors import DataError
from tutti.protocols import Part, Piece
from tutti.types import Array

_LARGEST, _PIECES = 32 << 20, 16


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files with the same columns.

    Parameters
    ----------
    paths : files, globs or folders; local or any fsspec URL.
    label, weight : names of these columns; None if there are none.
    dtype : "float32" or "float64", the type of the values.
    columns : features to use, in this order; None means all other columns.
    missing : True reads nulls and NaN of features as NaN instead of refusing them.
    """

    paths: tuple[str, ...]
    label: str | None = "y"
    weight: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    columns: tuple[str, ...] | None = None
    missing: bool = False

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    @cached_property
    def _known(self) -> dict[str, Roles]:
        return {}

    @cached_property
    def _first(self) -> str:
        return filesystem.expand(self.paths)[0][0]

    def _roles(self, path: str) -> Roles:
        if path not in self._known:
            schema = _footer(path).schema.to_arrow_schema()
            found = roles(schema.names, self.label, self.weight, self.columns, path)
            for name in (*found.features, *([found.weight] if found.weight else [])):
                _check_type(schema.field(name).type, name, path)
            if path != self._first:
                found = like_first(found, self._roles(self._first), path, self._first)
            self._known[path] = found
        return self._known[path]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self._roles(self._first).features

    def pieces(self) -> tuple[Piece, ...]:
        """Return runs of row groups; their rows are known from the footers."""
        files = filesystem.expand(self.paths)
        size = min(max(sum(n for _, n in files) // _PIECES, 1), _LARGEST)
        pieces: list[Piece] = []
        for path, n_bytes in files:
            if n_bytes == 0:
                raise DataError("the file is empty", path=path)
            pieces += _runs_of_groups(path, _footer(path), size, len(pieces))
        return tuple(pieces)

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        """Read the row groups of the piece."""
        found = self._roles(piece.path)
        table = _read(piece, [n for n in (*found.features, found.label, found.weight) if n is not None])
        columns = [_numbers(table, name, piece, self.missing) for name in found.features]
        x = to_rows(columns, table.num_rows, self.dtype)
        check_finite(x, found.features, lambda row: (piece.path, self.line(piece, row)), self.missing)
        return Part(x, *_label_and_weight(table, found, piece))

    def read_labels(self, piece: Piece) -> Part:
        """Read labels and weights alone; ``x`` stands for the rows and columns that were left out."""
        found = self._roles(piece.path)
        table = _read(piece, [n for n in (found.label, found.weight) if n is not None])
        x = np.broadcast_to(np.zeros((), dtype=self.dtype), (piece.n_rows or 0, len(found.features)))
        return Part(x, *_label_and_weight(table, found, piece))

    def line(self, piece: Piece, row: int) -> int:
        """Return the 0-based row of the file."""
        return _first_row(piece) + row


def _footer(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with filesystem.open_arrow(path) as file:
            return pq.read_metadata(file)
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise DataError(f"this is not a Parquet file, or it is damaged: {error}", path=path) from None


def _runs_of_groups(path: str, footer: Any, size: int, first: int) -> list[Piece]:
    """Join neighbouring row groups up to ``size`` stored bytes."""
    pieces: list[Piece] = []
    lo = n_bytes = n_rows = 0
    for g in range(footer.num_row_groups):
        group = footer.row_group(g)
        n_bytes += sum(group.column(c).total_compressed_size for c in range(group.num_columns))
        n_rows += group.num_rows
        if n_bytes >= size or g + 1 == footer.num_row_groups:
            pieces.append(Piece(first + len(pieces), path, lo, g + 1, n_bytes, n_rows))
            lo, n_bytes, n_rows = g + 1, 0, 0
    return pieces


def _check_type(kind: Any, name: str, path: str) -> None:
    import pyarrow as pa

    t = pa.types
    if not (t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal(kind)):
        raise DataError(
            f"holds {kind}, which is not a number: encode it, or leave it out with columns=", path=path, column=name
        )


def _read(piece: Piece, columns: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with filesystem.open_arrow(piece.path) as file, pq.ParquetFile(file) as parquet:
            groups = list(range(piece.start, piece.stop))
            if groups and groups[-1] >= parquet.metadata.num_row_groups:
                raise DataError("the file was changed: it has fewer row groups than before", path=piece.path)
            return parquet.read_row_groups(groups, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read, is it damaged? ({error})", path=piece.path) from None


def _first_row(piece: Piece) -> int:
    footer = _footer(piece.path)
    return sum(footer.row_group(g).num_rows for g in range(piece.start))


def _numbers(table: Any, name: str, piece: Piece, fine: bool = False) -> Array:
    """Return a column of numbers; ``fine``: a null becomes NaN."""
    import pyarrow as pa

    column = table.column(name)
    missing = first_null(column)
    if missing is not None and fine:
        column = column.cast(pa.float64())
    elif missing is not None:
        raise DataError(
            "the value is missing: fill it, remove the row, or write read_parquet(..., missing=True) for trees",
            path=piece.path,
            row=_first_row(piece) + missing,
            column=name,
        )
    if pa.types.is_decimal(column.type) or pa.types.is_boolean(column.type):
        return np.asarray(column.cast(pa.uint8() if pa.types.is_boolean(column.type) else pa.float64()).to_numpy())
    return np.asarray(column.to_numpy())


def _label_and_weight(table: Any, found: Roles, piece: Piece) -> tuple[Array | None, Array | None]:
    weight = None
    if found.weight is not None:
        weight = _numbers(table, found.weight, piece).astype(np.float64)
    if found.label is None:
        return None, weight
    return _label(table.column(found.label), found.label, piece), weight


def _label(column: Any, name: str, piece: Piece) -> Array:
    import pyarrow as pa

    missing = first_null(column)
    if missing is not None:
        raise DataError(
            "the label is missing: every row needs one", path=piece.path, row=_first_row(piece) + missing, column=name
        )
    t = pa.types
    if t.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        coded = column.combine_chunks().dictionary_encode()
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        names = np.asarray(coded.dictionary.to_pylist(), dtype=str)
        return np.asarray(names[coded.indices.to_numpy()])
    if t.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)):
        raise DataError(f"the label holds {kind}; write numbers or text", path=piece.path, column=name)
    found = np.asarray(column.to_numpy())
    return found.astype(np.float64) if found.dtype == np.float16 else found
