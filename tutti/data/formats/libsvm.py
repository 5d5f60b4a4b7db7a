"""libsvm text: ``label index:value index:value ...  # comment``, one row a line, indices rising within a row."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutti.data.formats import text
from tutti.errors import DataError, ParameterError
from tutti.protocols import Part, Piece
from tutti.types import Array, Csr

_ODD = 4096
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class LibsvmSource:
    """libsvm text files.

    Parameters
    ----------
    paths : files, globs or folders; local or any fsspec URL; .gz and .zst are unpacked.
    n_features : width; an index beyond it is an error.  None means the largest index found.
    zero_based : True if indices start at 0.
    dtype : "float32" or "float64", the type of the values.
    """

    paths: tuple[str, ...]
    n_features: int | None = None
    zero_based: bool = False
    dtype: Literal["float32", "float64"] = "float32"

    untyped = True  # labels are text: 1 and 1.0 mean the same

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.n_features is not None and not 0 < self.n_features <= _INT32:
            raise ParameterError("n_features", self.n_features, f"write a number from 1 to {_INT32}, or None")

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return None

    def pieces(self) -> tuple[Piece, ...]:
        """Return byte ranges of the files."""
        return text.plan(self.paths)

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        """Parse the lines that start in the piece."""
        lines = text.Lines(piece.path, piece.start, piece.stop)
        return _Reader(self, lines, self.n_features or n_features).part()

    def read_briefly(self, piece: Piece) -> Part:
        """Parse like `read`, into arrays that the next call of the same thread reuses: warm pages are filled faster."""
        lines = text.Lines(piece.path, piece.start, piece.stop)
        return _Reader(self, lines, self.n_features, _scratch.__dict__).part()

    def line(self, piece: Piece, row: int) -> int:
        """Return the 1-based line of a row of the piece."""
        lines = text.Lines(piece.path, piece.start, piece.stop)
        for found, (at, _) in enumerate(_rows(lines)):
            if found == row:
                return lines.line_number(at)
        raise IndexError(f"row {row} of {piece}")


def check_dtype(dtype: str) -> None:
    """Refuse types other than float32 and float64."""
    if dtype not in ("float32", "float64"):
        raise ParameterError("dtype", dtype, 'write "float32" or "float64"')


def _rows(lines: text.Lines) -> Iterator[tuple[int, bytes]]:
    """Start and text of the lines that hold a row."""
    at = lines.lo
    while at < lines.hi:
        line = lines.text(at)
        if line.split(b"#")[0].strip():
            yield at, line
        at = lines.next_start(at + 1)


_scratch = threading.local()


def _buffer(name: str, n: int, dtype: str, scratch: dict[str, Array] | None) -> Array:
    """Return room for ``n`` numbers: new, or what the thread used last time if it is large enough."""
    found = None if scratch is None else scratch.get(name)
    if found is None or len(found) < n or found.dtype != dtype:
        found = np.empty(n, dtype=dtype)
        if scratch is not None:
            scratch[name] = found
    return found


class _Reader:
    """Parses one piece into arrays that are larger than needed: pages that are not written to cost nothing."""

    def __init__(
        self, source: LibsvmSource, lines: text.Lines, width: int | None, scratch: dict[str, Array] | None = None
    ) -> None:
        self.source, self.lines, self.width = source, lines, width
        n = lines.hi - lines.lo
        self.y = np.empty(n // 32 + 16)
        self.indptr = np.zeros(n // 32 + 17, dtype=np.int64)
        self.indices = _buffer("indices", n // 4 + 2, "int32", scratch)
        self.values = _buffer("values", n // 4 + 2, source.dtype, scratch)
        self.odd = np.empty((_ODD, 3), dtype=np.int64)
        self.row, self.k, self.widest = 0, 0, -1

    def part(self) -> Part:
        lines = self.lines
        whole = lines.array()
        end = lines.last_end()
        self._parse(whole, lines.lo, end, 0)
        if end < lines.hi:  # the kernel relies on newlines: the last line gets the one it lacks
            last = np.frombuffer(bytes(lines.buffer[end : lines.hi]) + b"\n", dtype=np.uint8)
            self._parse(last, 0, len(last), end)
        width = self.width or self.widest + 1
        x = Csr(self.indptr[: self.row + 1], self.indices[: self.k], self.values[: self.k], width)
        return Part(x, self.y[: self.row])

    def _parse(self, buffer: Array, lo: int, hi: int, shift: int) -> None:
        """Parse ``buffer[lo:hi]``; byte 0 of it is byte ``shift`` of the lines' buffer."""
        from tutti.data._kernels import libsvm as kernel

        base = 0 if self.source.zero_based else 1
        top = (self.width or _INT32) - 1
        largest = float(np.finfo(self.source.dtype).max)
        while True:
            state, at, self.row, self.k, n_odd, widest = kernel.parse(
                buffer,
                lo,
                hi,
                base,
                top,
                largest,
                self.y,
                self.indptr,
                self.indices,
                self.values,
                self.row,
                self.k,
                self.odd,
            )
            self.widest = max(self.widest, widest)
            self._read_odd(buffer, n_odd, shift, largest)
            if state == kernel.OK:
                return
            if state == kernel.BROKEN:
                raise self._error(at + shift)
            if self.row == len(self.y):
                self.y = np.concatenate([self.y, np.empty(len(self.y))])
                self.indptr = np.concatenate([self.indptr, np.empty(len(self.indptr), dtype=np.int64)])
            elif n_odd == 0:
                self.odd = np.empty((2 * len(self.odd), 3), dtype=np.int64)
            lo = at

    def _read_odd(self, buffer: Array, n_odd: int, shift: int, largest: float) -> None:
        """Read the numbers that the kernel leaves to Python: more than 19 digits, or exponents beyond 60."""
        for k, at, end in self.odd[:n_odd].tolist():
            value = float(bytes(buffer[at:end]))
            if abs(value) > (largest if k >= 0 else float(np.finfo(np.float64).max)):
                raise self._error(self.lines.start_of(at + shift))
            if k >= 0:
                self.values[k] = value
            else:
                self.y[-1 - k] = value

    def _error(self, at: int) -> DataError:
        line = self.lines.text(at)
        problem = _complaint(line, self.source, self.width)
        return DataError(problem, path=self.lines.path, row=self.lines.line_number(at))


def _complaint(line: bytes, source: LibsvmSource, width: int | None) -> str:
    """Say what is wrong with a line, by reading it slowly and strictly."""
    tokens = line.split(b"#")[0].decode("utf-8", "replace").split()
    label, pairs = tokens[0], tokens[1:]
    if ":" in label:
        return f"the line starts with {label!r}; a label such as 1 or -1 comes first"
    if "," in label:
        return f"the label {label!r} is a list of labels; one label a row is supported"
    problem = _number_complaint(label, math.inf)
    if problem:
        return f"the label {label!r} {problem}"
    last = -1
    base = 0 if source.zero_based else 1
    for pair in pairs:
        index, colon, value = pair.partition(":")
        if not colon:
            return f"{pair!r} lacks a colon; features are written index:value"
        if index == "qid":
            return f"{pair!r} groups rows for ranking, which is not supported: remove the qid column"
        if not (index.isascii() and index.isdigit()):
            negative = index.startswith("-") and index[1:].isdigit()
            return f"the index in {pair!r} is {'negative' if negative else 'not a whole number'}"
        number = int(index)
        if number < base:
            return (
                f"index 0 in {pair!r}: indices start at 1 here; if they start at 0 in this file, pass zero_based=True"
            )
        if width is not None and number - base >= width:
            return f"index {number} in {pair!r} is beyond n_features={width}"
        if number - base >= _INT32:
            return f"index {number} in {pair!r} is larger than {_INT32}"
        if number == last:
            return f"index {number} occurs twice; write each index once"
        if number < last:
            return f"index {number} comes after {last}; write the indices of a row in rising order"
        last = number
        problem = _number_complaint(value, float(np.finfo(source.dtype).max))
        if problem:
            return f"the value in {pair!r} {problem}"
    return "the line cannot be read"


def _number_complaint(token: str, largest: float) -> str | None:
    if "_" in token or not token.isascii():
        return "is not a number"
    try:
        value = float(token)
    except ValueError:
        return "is not a number"
    if math.isnan(value) or "inf" in token.lower():
        return "is not finite: remove the row, or put a number in its place"
    if abs(value) > largest or math.isinf(value):
        return 'is too large for float32: pass dtype="float64"' if abs(value) <= 1.7e308 else "is too large"
    return None
