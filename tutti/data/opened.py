"""Shards as a worker sees them: rows in memory, re-read from the source, or kept in files of their own.

All three return the same rows in the same order; a shard in memory is one block, the others are cut into blocks of at
most 65,536 rows that never cross a piece.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tutti.data import shards
from tutti.data.labels import codes
from tutti.errors import DataError
from tutti.protocols import Part, Piece, Source
from tutti.types import Array, Block, Csr, Schema

BLOCK_ROWS = 65_536


def take_rows(x: Array | Csr, rows: shards.Rows) -> Array | Csr:
    """Return C-ordered rows of ``x``: a view where rows are consecutive and ``x`` allows it, else a copy."""
    if isinstance(x, Csr):
        if isinstance(rows, slice):
            ptr = x.indptr[rows.start : rows.stop + 1]
            lo, hi = int(ptr[0]), int(ptr[-1])
            return Csr(ptr - lo if lo else ptr, x.indices[lo:hi], x.values[lo:hi], x.n_features)
        from tutti.data._kernels import csr

        ptr, indices, values = csr.take(x.indptr, x.indices, x.values, rows)
        return Csr(ptr, indices, values, x.n_features)
    if isinstance(rows, slice):
        return np.ascontiguousarray(x[rows])
    if x.flags.c_contiguous:
        return np.take(x, rows, axis=0)
    out = np.empty((len(rows), x.shape[1]), dtype=x.dtype)
    for j in range(x.shape[1]):
        out[:, j] = x[:, j][rows]
    return out


def join_rows(parts: Sequence[Array | Csr], n_features: int) -> Array | Csr:
    """Return the rows of all parts in one allocation; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Csr):
        found = [p for p in parts if isinstance(p, Csr)]
        shift = np.cumsum([0] + [int(p.indptr[-1]) for p in found])
        ptr = np.concatenate([[0], *[p.indptr[1:] + s for p, s in zip(found, shift[:-1], strict=True)]])
        indices = np.concatenate([p.indices for p in found])
        return Csr(ptr.astype(np.int64), indices, np.concatenate([p.values for p in found]), n_features)
    return np.concatenate([np.asarray(p) for p in parts])


def target(y: Array | None, schema: Schema, where: Callable[[int], tuple[str | None, int]]) -> Array:
    """Return int32 codes into the classes, or float64 targets if the schema has none."""
    if y is None:
        raise DataError("requires y to be passed, but the target y is None: name the label column, or give y")
    if schema.classes is None:
        return y.astype(np.float64, copy=False)
    try:
        return codes(y, schema.classes)
    except DataError as error:
        path, row = where(0)
        raise DataError(f"{error.message}: the data changed since it was scanned", path=path, row=row) from None


class MemoryShard:
    """A shard that is one block; built on first use, without a copy where the rows are consecutive."""

    def __init__(self, id: int, n_rows: int, make: Callable[[], Block], place: Callable[[int], Any]) -> None:
        self.id, self.n_rows = id, n_rows
        self._make, self._place = make, place
        self._lock = threading.Lock()
        self._block: Block | None = None

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        return ((0, self.n_rows),) if self.n_rows else ()

    def block(self, i: int) -> Block:
        """Return block 0, which is the whole shard."""
        if i != 0 or not self.n_rows:
            raise IndexError(f"block {i} of shard {self.id}, which has {len(self.bounds)}")
        with self._lock:
            if self._block is None:
                self._block = self._make()
            return self._block

    def place(self, row: int) -> tuple[str | None, int]:
        """Return (file or None, line or row) where a row of the shard came from."""
        found: tuple[str | None, int] = self._place(row)
        return found

    def close(self) -> None:
        """Forget the rows."""
        self._block = None


class PieceMemory:
    """The last decoded piece of every open shard, together at most ``limit`` bytes; shared by threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[int, Part, int]] = {}

    def get(self, owner: int, piece: int) -> Part | None:
        """Return the piece if any shard still holds it."""
        with self._lock:
            for kept, part, n_bytes in self._kept.values():
                if kept == piece:
                    self._kept.pop(owner, None)
                    self._kept[owner] = (kept, part, n_bytes)
                    return part
            return None

    def put(self, owner: int, piece: int, part: Part) -> None:
        """Keep the piece for ``owner``, dropping what was asked for longest ago."""
        with self._lock:
            self._kept.pop(owner, None)
            self._kept[owner] = (piece, part, part_bytes(part))
            while len(self._kept) > 1 and sum({p: b for p, _, b in self._kept.values()}.values()) > self.limit:
                del self._kept[next(iter(self._kept))]

    def forget(self, owner: int) -> None:
        """Drop what ``owner`` holds."""
        with self._lock:
            self._kept.pop(owner, None)


def part_bytes(part: Part) -> int:
    """Return the bytes of a decoded piece."""
    x = part.x
    n = x.indptr.nbytes + x.indices.nbytes + x.values.nbytes if isinstance(x, Csr) else x.nbytes
    return int(n + sum(a.nbytes for a in (part.y, part.weight) if a is not None))


class StreamShard:
    """A shard that is read from its source again on every pass; one decoded piece is kept between blocks."""

    def __init__(
        self,
        id: int,
        source: Source,
        pieces: Sequence[Piece],
        rows: Sequence[shards.Extent],
        schema: Schema,
        memory: PieceMemory,
        place: Callable[[int], Any],
    ) -> None:
        self.id = id
        self._source, self._pieces, self._schema, self._memory, self._place = source, pieces, schema, memory, place
        self._extents = [e for extent in rows for e in _cut(extent)]
        edges = np.concatenate([[0], np.cumsum([shards.count(r) for _, r in self._extents])]).astype(int).tolist()
        self._bounds = tuple(pairwise(edges))
        self.n_rows: int = edges[-1]

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        return self._bounds

    def block(self, i: int) -> Block:
        """Return block i, decoding its piece if it is not the last one that was used."""
        index, rows = self._extents[i]
        part = self._memory.get(self.id, index)
        if part is None:
            part = read_piece(self._source, self._pieces[index], self._schema)
            self._memory.put(self.id, index, part)
        y = None if part.y is None else part.y[rows]
        weight = None if part.weight is None else part.weight[rows]
        start = self._bounds[i][0]
        return Block(take_rows(part.x, rows), target(y, self._schema, lambda r: self._place(start + r)), weight, start)

    def place(self, row: int) -> tuple[str | None, int]:
        """Return (file or None, line or row) where a row of the shard came from."""
        found: tuple[str | None, int] = self._place(row)
        return found

    def close(self) -> None:
        """Forget the piece that was kept."""
        self._memory.forget(self.id)


def _cut(extent: shards.Extent) -> list[shards.Extent]:
    index, rows = extent
    n = shards.count(rows)
    runs = [(lo, min(lo + BLOCK_ROWS, n)) for lo in range(0, n, BLOCK_ROWS)]
    return [(index, shards.pick(rows, slice(lo, hi)) if isinstance(rows, slice) else rows[lo:hi]) for lo, hi in runs]


def read_piece(source: Source, piece: Piece, schema: Schema) -> Part:
    """Read a piece and refuse it if it is not what the scan saw."""
    part = source.read(piece, schema.n_features)
    n, d = part.x.shape
    if (piece.n_rows is not None and n != piece.n_rows) or d != schema.n_features:
        raise DataError(
            f"held {piece.n_rows} rows of {schema.n_features} features when it was scanned and now holds {n} of {d}: "
            "the file was changed; scan it again",
            path=piece.path,
        )
    return part


class DiskShard:
    """A shard whose decoded blocks are kept as .npy files in a private folder, removed with the shard."""

    def __init__(self, shard: StreamShard) -> None:
        self._shard = shard
        self.id, self.n_rows = shard.id, shard.n_rows
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._remove: Any = None

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        return self._shard.bounds

    def block(self, i: int) -> Block:
        """Return block i, mapped from its files; the first call decodes and writes it."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="tutti-blocks-"))  # mkdtemp makes it private: 0700
                self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            stem = self._folder / f"{i}"
            if not stem.with_suffix(".y.npy").exists():
                self._write(stem, self._shard.block(i))
            return self._read(stem, self.bounds[i][0])

    def _write(self, stem: Path, block: Block) -> None:
        x = block.x
        arrays = {"x": x} if not isinstance(x, Csr) else {"indptr": x.indptr, "indices": x.indices, "values": x.values}
        if block.weight is not None:
            arrays["weight"] = block.weight
        for name, array in {**arrays, "y": block.y}.items():  # y is written last: its file says the block is complete
            np.save(stem.with_suffix(f".{name}.npy"), array, allow_pickle=False)

    def _read(self, stem: Path, start: int) -> Block:
        def load(name: str) -> Any:
            path = stem.with_suffix(f".{name}.npy")
            return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) if path.exists() else None

        x = load("x")
        if x is None:
            x = Csr(load("indptr"), load("indices"), load("values"), self._shard._schema.n_features)
        return Block(x, load("y"), load("weight"), start)

    def place(self, row: int) -> tuple[str | None, int]:
        """Return (file or None, line or row) where a row of the shard came from."""
        return self._shard.place(row)

    def close(self) -> None:
        """Remove the files."""
        self._shard.close()
        if self._remove is not None:
            self._remove()
        self._folder = None
