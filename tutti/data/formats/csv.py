"""CSV in newline-aligned byte ranges, read by pyarrow; whatever it refuses is read again slowly to name the line.

A value that holds a line break is refused, even in quotes: byte ranges need every line to be a row.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tutti.data import filesystem
from tutti.data.formats import text
from tutti.data.formats.columns import Roles, check_finite, like_first, roles, to_rows
from tutti.data.formats.libsvm import check_dtype
from tutti.errors import DataError, ParameterError
from tutti.protocols import Part, Piece
from tutti.types import Array

_HEAD = 1 << 16


@dataclass(frozen=True)
class CsvSource:
    """CSV files with the same columns.

    Parameters
    ----------
    paths : files, globs or folders; local or any fsspec URL; .gz and .zst are unpacked.
    label, weight : names of these columns; None if there are none.
    dtype : "float32" or "float64", the type of the values.
    columns : features to use, in this order; None means all other columns.
    delimiter : one character.
    header : False if the first line is data; columns are then named f0, f1, ...
    missing : True reads what is missing among the features as NaN instead of refusing it.
    """

    paths: tuple[str, ...]
    label: str | None = "y"
    weight: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    columns: tuple[str, ...] | None = None
    delimiter: str = ","
    header: bool = True
    missing: bool = False

    untyped = True  # labels are text: 1 and 1.0 mean the same

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ParameterError("delimiter", self.delimiter, "write one character")

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        return {}

    def names_in(self, path: str) -> tuple[str, ...]:
        """Return the column names of a file, read from its first line."""
        if path not in self._names:
            head = text.Lines(path, 0, 1)
            line = head.text(0).removeprefix(b"\xef\xbb\xbf")
            names = next(csv.reader([_decode(line, path, 1)], delimiter=self.delimiter), [])
            if not names or (self.header and not any(n.strip() for n in names)):
                raise DataError("the first line is empty; it holds the names of the columns", path=path, row=1)
            self._names[path] = tuple(names) if self.header else tuple(f"f{i}" for i in range(len(names)))
        return self._names[path]

    def _roles(self, path: str) -> Roles:
        found = roles(self.names_in(path), self.label, self.weight, self.columns, path)
        return found if path == self._first else like_first(found, self._roles(self._first), path, self._first)

    @cached_property
    def _first(self) -> str:
        return filesystem.expand(self.paths)[0][0]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self._roles(self._first).features

    def pieces(self) -> tuple[Piece, ...]:
        """Return byte ranges of the files."""
        return text.plan(self.paths)

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        """Parse the lines that start in the piece."""
        return _Reader(self, piece).part()

    def line(self, piece: Piece, row: int) -> int:
        """Return the 1-based line of a row of the piece."""
        return _Reader(self, piece).line(row)


def _decode(line: bytes, path: str, row: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the line is not UTF-8 text: {error}", path=path, row=row) from None


class _Reader:
    """Parses one piece."""

    def __init__(self, source: CsvSource, piece: Piece) -> None:
        self.source, self.path = source, piece.path
        self.names = source.names_in(piece.path)
        self.roles = source._roles(piece.path)
        self.lines = text.Lines(piece.path, piece.start, piece.stop)
        self.lo = self.lines.lo
        if self.lo + self.lines.offset == 0 and source.header:
            self.lo = self.lines.next_start(1) if self.lines.hi else 0
        self.lo = min(self.lo, self.lines.hi)

    def part(self) -> Part:
        table = self._table()
        fine = self.source.missing
        x = to_rows([self._numbers(table, n, fine) for n in self.roles.features], table.num_rows, self.source.dtype)
        check_finite(x, self.roles.features, lambda row: (self.path, self.line(row)), fine)
        y = None if self.roles.label is None else self._label(table, self.roles.label)
        weight = None if self.roles.weight is None else self._numbers(table, self.roles.weight)
        return Part(x, y, weight)

    def _table(self) -> Any:
        import pyarrow as pa
        from pyarrow import csv as arrow

        data = self.lines.buffer[self.lo : self.lines.hi]
        self._check_quotes(data)
        types = {name: getattr(pa, self.source.dtype)() for name in self.roles.features}
        if self.roles.weight is not None:
            types[self.roles.weight] = pa.float64()
        if self.roles.label is not None:
            types[self.roles.label] = pa.string()
        if not bytes(data[:1]).strip() and not bytes(data).strip():
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        try:
            return arrow.read_csv(
                pa.py_buffer(data),
                arrow.ReadOptions(use_threads=False, block_size=min(len(data) + 1, 1 << 30), column_names=self.names),
                arrow.ParseOptions(delimiter=self.source.delimiter),
                arrow.ConvertOptions(
                    column_types=types, include_columns=list(types), strings_can_be_null=True, null_values=_NULLS
                ),
            )
        except pa.ArrowInvalid as error:
            self._complain()
            raise DataError(f"cannot be read: {error}", path=self.path) from None

    def _numbers(self, table: Any, name: str, fine: bool = False) -> Array:
        """Return a column of numbers; ``fine``: what is missing becomes NaN."""
        column = table.column(name)
        if column.null_count and not fine:
            self._complain()
        return np.asarray(column.to_numpy())

    def _label(self, table: Any, name: str) -> Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = table.column(name)
        if column.null_count:
            self._complain()
        coded = column.combine_chunks().dictionary_encode()
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        values = pc.utf8_trim_whitespace(coded.dictionary)
        try:
            found = np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            found = np.asarray(values.to_pylist(), dtype=str)
        return found[coded.indices.to_numpy()] if len(found) else np.zeros(0)

    def _check_quotes(self, data: memoryview) -> None:
        """Every line holds an even number of quotes, or a value runs over its end."""
        whole: Any = data.obj
        if whole.find(b'"', self.lo, self.lines.hi) < 0:
            return
        array = self.lines.array()[self.lo : self.lines.hi]
        ends = np.flatnonzero(array == 10)
        quotes = np.searchsorted(np.flatnonzero(array == 34), np.append(ends, len(array)))
        odd = np.flatnonzero(quotes % 2)
        if len(odd):
            at = self.lo + (int(ends[odd[0] - 1]) + 1 if odd[0] else 0)
            raise DataError(
                "a quoted value holds a line break, or a quote is not closed: write a row per line, or use Parquet",
                path=self.path,
                row=self.lines.line_number(at),
            )

    def _rows(self) -> Iterator[tuple[int, bytes]]:
        """Start and text of the lines that hold a row."""
        at = self.lo
        while at < self.lines.hi:
            line = self.lines.text(at)
            if line:
                yield at, line
            at = self.lines.next_start(at + 1)

    def line(self, row: int) -> int:
        for found, (at, _) in enumerate(self._rows()):
            if found == row:
                return self.lines.line_number(at)
        raise IndexError(f"row {row} of {self.path}")

    def _complain(self) -> None:
        """Read line by line and raise the error of the first that is broken."""
        numbers = [n for n in (*self.roles.features, self.roles.weight) if n is not None]
        place = {name: i for i, name in enumerate(self.names)}
        for at, line in self._rows():
            problem, column = self._line_problem(line, numbers, place)
            if problem is not None:
                raise DataError(problem, path=self.path, row=self.lines.line_number(at), column=column)

    def _line_problem(self, line: bytes, numbers: list[str], place: dict[str, int]) -> tuple[str | None, str | None]:
        try:
            values = next(csv.reader(io.StringIO(line.decode("utf-8")), delimiter=self.source.delimiter))
        except UnicodeDecodeError as error:
            return f"the line is not UTF-8 text: {error}", None
        if len(values) != len(self.names):
            return f"{len(values)} values, but the file has {len(self.names)} columns", None
        if self.roles.label is not None and values[place[self.roles.label]] in _NULLS:
            return "the label is missing: every row needs one", self.roles.label
        for name in numbers:
            value = values[place[name]]
            if value in _NULLS and self.source.missing and name in self.roles.features:
                continue
            if value in _NULLS:
                hint = "fill it, remove the row, or write read_csv(..., missing=True) for trees"
                return f"the value is missing ({value!r}): {hint}", name
            try:
                number = float(value)
            except ValueError:
                return f"text {value!r} where a number was expected: encode it, or leave it out with columns=", name
            if not math.isfinite(number):
                return f"the value is {value}: remove the row, or put a finite number in its place", name
        return None, None


_NULLS = ["", "#N/A", "N/A", "NA", "NULL", "NaN", "Nan", "nan", "n/a", "null", "-nan", "-NaN", "None", "<NA>"]
