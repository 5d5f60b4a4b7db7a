"""Text files in pieces that any worker can read on its own: byte ranges, each line in the piece in which it starts.

A compressed file is one piece, since its middle cannot be found without unpacking what comes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutti.data import filesystem
from tutti.errors import DataError
from tutti.protocols import Piece
from tutti.types import Array

_SMALLEST, _LARGEST, _PIECES = 1 << 18, 32 << 20, 16
_LOOK_AHEAD = 1 << 16
_CODECS = {".gz": "gzip", ".zst": "zstd"}


def codec(path: str) -> str | None:
    """Return the codec of a compressed file by its name, None for plain text."""
    return next((c for end, c in _CODECS.items() if path.lower().endswith(end)), None)


def plan(paths: Sequence[str]) -> tuple[Piece, ...]:
    """Cut files into pieces of 256 KiB to 32 MiB, at least 16 where there is enough to cut; looks at sizes alone.

    Raises
    ------
    DataError : for a path without files, or an empty file.
    """
    files = filesystem.expand(paths)
    size = min(max(sum(n for _, n in files) // _PIECES, _SMALLEST), _LARGEST)
    pieces: list[Piece] = []
    for path, n in files:
        if n == 0:
            raise DataError("the file is empty", path=path)
        n_cuts = 1 if codec(path) else -(-n // size)
        for i in range(n_cuts):
            lo, hi = n * i // n_cuts, n * (i + 1) // n_cuts
            pieces.append(Piece(len(pieces), path, lo, hi, hi - lo))
    return tuple(pieces)


class Lines:
    """The whole lines of one piece: ``buffer[lo:hi]``, with the byte of the file at which ``buffer`` starts."""

    def __init__(self, path: str, start: int, stop: int) -> None:
        self.path = path
        if codec(path):
            self.buffer, self.offset = memoryview(_unpack(path)), 0
            start, stop = 0, len(self.buffer)
        elif filesystem.is_url(path):
            self.offset = max(start - 1, 0)
            self.buffer = memoryview(_fetch(path, self.offset, stop))
        else:
            self.buffer, self.offset = filesystem.map_file(path), 0
            if len(self.buffer) < stop:
                raise DataError(f"the file shrank to {len(self.buffer)} bytes while it was being used", path=path)
        self.lo = self.next_start(start - self.offset)
        self.hi = self.next_start(stop - self.offset)

    def next_start(self, at: int) -> int:
        """First byte at or after ``at`` that begins a line."""
        if at <= 0:
            return 0
        whole: Any = self.buffer.obj
        found = whole.find(b"\n", at - 1)
        return found + 1 if found >= 0 else len(self.buffer)

    def start_of(self, at: int) -> int:
        """First byte of the line that byte ``at`` lies in."""
        whole: Any = self.buffer.obj
        return int(whole.rfind(b"\n", 0, at)) + 1

    def last_end(self) -> int:
        """End of the last line of the piece that is closed by a newline."""
        return max(self.start_of(self.hi), self.lo) if self.hi > self.lo else self.lo

    def array(self) -> Array:
        """Return the buffer as read-only uint8."""
        found = np.frombuffer(self.buffer, dtype=np.uint8)
        found.flags.writeable = False
        return found

    def line_number(self, at: int) -> int:
        """Return the 1-based number of the line that byte ``at`` of the buffer lies in."""
        before = 0
        if self.offset:
            before = filesystem.read_range(self.path, 0, self.offset).count(b"\n")
        step = 1 << 24
        whole = self.array()
        for lo in range(0, at, step):
            before += int(np.count_nonzero(whole[lo : min(lo + step, at)] == 10))
        return before + 1

    def text(self, at: int) -> bytes:
        """Return the line that starts at byte ``at`` of the buffer, without its end."""
        whole: Any = self.buffer.obj
        end = whole.find(b"\n", at)
        return bytes(self.buffer[at : end if end >= 0 else len(self.buffer)]).rstrip(b"\r")


def _unpack(path: str) -> bytes:
    import pyarrow as pa

    try:
        with filesystem.open_arrow(path) as file, pa.CompressedInputStream(file, codec(path)) as stream:
            return bytes(stream.read())
    except DataError as error:
        raise DataError(f"cannot be unpacked, is it damaged or cut short? ({error.message})", path=path) from None
    except (pa.ArrowInvalid, EOFError, ValueError) as error:
        raise DataError(f"cannot be unpacked, is it damaged or cut short? ({error})", path=path) from None


def _fetch(url: str, start: int, stop: int) -> bytes:
    """Bytes from ``start`` to the end of the line that holds the byte before ``stop``."""
    data = filesystem.read_range(url, start, stop)
    if len(data) < stop - start:
        raise DataError(f"the file shrank to {start + len(data)} bytes while it was being used", path=url)
    if data.endswith(b"\n"):
        return data
    parts, at = [data], stop
    while True:
        more = filesystem.read_range(url, at, at + _LOOK_AHEAD)
        end = more.find(b"\n")
        parts.append(more if end < 0 else more[: end + 1])
        if end >= 0 or len(more) < _LOOK_AHEAD:
            return b"".join(parts)
        at += len(more)
