"""What a data set remembers: the scan of its source, the rows its views choose, schemas and shard maps.

A memo belongs to one `Dataset`; data sets derived from each other share the scan, so a file is read once for a train
and a test part.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti.data import memory, scan, shards
from tutti.data.labels import codes, summarise
from tutti.data.opened import DiskShard, MemoryShard, PieceMemory, StreamShard, join_rows, read_piece, take_rows, target
from tutti.data.sources import ArraySource, CountedSource, place_of
from tutti.errors import DataError, PlanError
from tutti.protocols import Part, Piece
from tutti.types import Array, Block, Csr, Schema

if TYPE_CHECKING:
    from tutti.data.dataset import Dataset


class _Shared:
    """What data sets over one source have in common."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.scan: scan.Scan | None = None
        self.cap: int | None = None
        self.pieces: PieceMemory | None = None


class Memo:
    """Lazily computed facts about one `Dataset`, safe to ask for from several threads."""

    def __init__(self, shared: _Shared | None = None) -> None:
        self._shared = shared or _Shared()
        self._rows: shards.Rows | None = None
        self._schemas: dict[str, Schema] = {}
        self._maps: dict[int, shards.ShardMap] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Memo, ()  # a copy of a data set in another process, or by copy.deepcopy, finds out for itself

    def derived(self) -> Memo:
        """Return the memo of a data set over the same source."""
        return Memo(self._shared)

    def recached(self) -> Memo:
        """Return the memo of a data set that keeps its rows elsewhere: what was found stays, decoded rows do not."""
        made = _Shared()
        if self._shared.scan is not None:
            made.scan = dataclasses.replace(self._shared.scan, whole=None)
        return Memo(made)

    def cap(self, data: Dataset) -> int:
        """Return the bytes that decoded rows may take; measured once, so that the answer stays the same."""
        with self._shared.lock:
            if self._shared.cap is None:
                self._shared.cap = data.limit if data.limit is not None else memory.available_bytes() // 2
            return self._shared.cap

    def scan(self, data: Dataset, threads: int | None = None) -> scan.Scan:
        """Return the scan of the source, made on first use."""
        with self._shared.lock:
            if self._shared.scan is None:
                keep = self.cap(data) if data.keep in ("auto", "memory") else 0
                self._shared.scan = scan.scan(data.source, keep, threads)
            return self._shared.scan

    def n_rows(self, data: Dataset) -> int:
        """Return the rows after all views."""
        return shards.count(self.rows(data))

    def rows(self, data: Dataset) -> shards.Rows:
        """Return the rows of the source that the views choose."""
        with self._shared.lock:
            if self._rows is None:
                found = self.scan(data)
                rows: shards.Rows = slice(0, found.n_rows)
                for view in data.views:
                    rows = shards.pick(rows, view.rows(shards.count(rows), partial(_codes, found, rows)))
                self._rows = rows
            return self._rows

    def schema(self, data: Dataset, task: str, threads: int | None) -> Schema:
        """Return the schema for a task."""
        with self._shared.lock:
            if task not in self._schemas:
                found = self.scan(data, threads)
                self._schemas[task] = _schema(data, found, self.rows(data), task)
            return self._schemas[task]

    def shard_map(self, data: Dataset, n_shards: int) -> shards.ShardMap:
        """Return the rows of every shard."""
        if data.shard_map is not None and data.shard_map.n_shards == n_shards:
            return data.shard_map
        with self._shared.lock:
            if n_shards not in self._maps:
                found, rows = self.scan(data), self.rows(data)
                dealt = _deal(data, found, rows, n_shards)
                self._maps[n_shards] = shards.ShardMap(tuple(shards.pick(rows, r) for r in dealt))
            return self._maps[n_shards]

    def settled(self, data: Dataset, n_shards: int, schema: Schema) -> Dataset:
        """Return a data set that a worker opens without scanning or drawing."""
        keep = data.keeps(schema)
        settled = self.shard_map(data, n_shards)
        if isinstance(data.source, ArraySource):
            return dataclasses.replace(data, shard_map=settled)
        found = self.scan(data)
        source: Any = scan.counted(data.source, found)
        if keep == "memory" and found.whole is not None:
            source = ArraySource(found.whole.x, found.whole.y, found.whole.weight, found.names, source)
        return dataclasses.replace(data, source=source, keep=keep, limit=self.cap(data), shard_map=settled)

    def open(
        self, data: Dataset, shard_id: int, n_shards: int, schema: Schema
    ) -> MemoryShard | StreamShard | DiskShard:
        """Return one shard."""
        rows = self.shard_map(data, n_shards).rows[shard_id]
        source = data.source
        if isinstance(source, ArraySource | CountedSource):
            pieces, whole = source.pieces(), None
        else:
            found = self.scan(data)
            pieces, whole = found.pieces, found.whole
        if isinstance(source, ArraySource):
            whole = Part(source.x, source.y, source.weight)

        def place(row: int) -> tuple[str | None, int]:
            return place_of(source, pieces, rows.start + row if isinstance(rows, slice) else int(rows[row]))

        keep = data.keeps(schema)
        if keep != "memory":
            _check_pieces(pieces, schema, self.cap(data))
        if whole is not None and keep == "memory":
            return MemoryShard(shard_id, shards.count(rows), lambda: _from_whole(whole, rows, schema, place), place)
        parts = shards.extents(rows, [p.n_rows or 0 for p in pieces])
        if keep == "memory":
            return MemoryShard(
                shard_id, shards.count(rows), lambda: _from_pieces(source, pieces, parts, schema, place), place
            )
        stream = StreamShard(shard_id, source, pieces, parts, schema, self._piece_memory(data), place)
        return DiskShard(stream) if keep == "disk" else stream

    def _piece_memory(self, data: Dataset) -> PieceMemory:
        with self._shared.lock:
            if self._shared.pieces is None:
                self._shared.pieces = PieceMemory(self.cap(data))
            return self._shared.pieces


def _check_pieces(pieces: Sequence[Piece], schema: Schema, cap: int) -> None:
    """A piece is decoded as a whole, so even streaming needs room for the largest."""
    largest = max(pieces, key=lambda p: p.n_rows or 0)
    need = schema.n_bytes * (largest.n_rows or 0) // schema.n_rows
    if need > cap:
        raise PlanError(
            f"one piece of {largest.path} needs {need / 1e6:,.1f} MB decoded, more than the limit of "
            f"{cap / 1e6:,.1f} MB: raise the limit, unpack a compressed file, or write smaller row groups"
        )


def _codes(found: scan.Scan, rows: shards.Rows) -> Array:
    y = _chosen(found.y, rows)
    if y is None:
        raise DataError("requires y to be passed, but the target y is None: classes are needed to stratify or resample")
    return codes(y, summarise(y, None).classes)


def _chosen(array: Array | None, rows: shards.Rows) -> Array | None:
    return None if array is None else array[rows]


def _row_bytes(found: scan.Scan, rows: shards.Rows) -> tuple[Array, Array | None]:
    """Return (cumulative cost, rows at which it is known) for `shards.balanced`, relative to the chosen rows."""
    x = found.whole.x if found.whole is not None and not found.pieces[0].path else None
    if x is not None:
        if not isinstance(x, Csr):
            n = shards.count(rows)
            return np.array([0, n]), np.array([0, n])
        if isinstance(rows, slice):
            return x.indptr[rows.start : rows.stop + 1], None
        return np.concatenate([[0], np.cumsum((x.indptr[1:] - x.indptr[:-1])[rows])]), None
    knots = np.concatenate([[0], np.cumsum([p.n_rows or 0 for p in found.pieces])])
    cost = np.concatenate([[0], np.cumsum([p.n_bytes for p in found.pieces])]).astype(np.float64)
    if isinstance(rows, slice):
        inside = np.concatenate([[rows.start], knots[(knots > rows.start) & (knots < rows.stop)], [rows.stop]])
        return np.interp(inside, knots, cost), inside - rows.start
    each = np.diff(np.interp(np.arange(knots[-1] + 1), knots, cost))
    return np.concatenate([[0.0], np.cumsum(each[rows])]), None


def _deal(data: Dataset, found: scan.Scan, rows: shards.Rows, n_shards: int) -> tuple[shards.Rows, ...]:
    n = shards.count(rows)
    if data.scheme == "round_robin":
        return shards.round_robin(n, n_shards)
    if data.scheme == "random":
        return shards.random(n, n_shards, data.scheme_seed)
    if data.scheme == "stratified":
        return shards.stratified(_codes(found, rows), n_shards)
    if data.scheme == "balanced":
        cost, knots = _row_bytes(found, rows)
        return shards.balanced(cost, n_shards, knots)
    return shards.contiguous(n, n_shards)


def _schema(data: Dataset, found: scan.Scan, rows: shards.Rows, task: str) -> Schema:
    n = shards.count(rows)
    everything = isinstance(rows, slice) and n == found.n_rows
    y, weight = _chosen(found.y, rows), _chosen(found.weight, rows)
    n_values = found.n_values if everything else _values(found, rows)
    weight_sum = float(n) if weight is None else float(weight.sum())
    if weight is not None and weight_sum == 0:
        raise DataError("sample_weight is zero for every row: nothing would be learned")
    if y is None:
        raise DataError("requires y to be passed, but the target y is None: name the label column, or give y")
    summary = None
    if task == "classification":
        summary = summarise(y, weight, integers=bool(getattr(data.source, "untyped", False)))
    elif y.dtype.kind in "UO":
        bad = next((i for i, text in enumerate(y) if not _is_number(text)), 0)
        at = (rows.start or 0) + bad if isinstance(rows, slice) else int(rows[bad])
        path, line = place_of(data.source, found.pieces, at)
        raise DataError(
            f"the target {str(y[bad])!r} is text; a regression needs numbers: use a classifier, or convert y",
            path=path,
            row=line,
        )
    return Schema(
        n_rows=n,
        n_features=found.n_features,
        classes=None if summary is None else summary.classes,
        class_weight_sums=None if summary is None else summary.weight_sums,
        class_counts=None if summary is None else summary.counts,
        weight_sum=weight_sum,
        weighted=weight is not None,
        sparse=found.sparse,
        dtype=found.dtype,
        n_values=n_values,
        n_bytes=scan.decoded_bytes(n, n_values, found.sparse, found.dtype),
        feature_names=found.names,
    )


def _values(found: scan.Scan, rows: shards.Rows) -> int:
    """Stored values of the chosen rows: exact for dense data and arrays, in proportion for a part of a sparse file."""
    n = shards.count(rows)
    if not found.sparse:
        return n * found.n_features
    if found.whole is not None and not found.pieces[0].path:
        return int((found.whole.x.indptr[1:] - found.whole.x.indptr[:-1])[rows].sum())
    return round(found.n_values * n / found.n_rows)


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _from_whole(whole: Part, rows: shards.Rows, schema: Schema, place: Any) -> Block:
    weight = _chosen(whole.weight, rows)
    return Block(take_rows(whole.x, rows), target(_chosen(whole.y, rows), schema, place), weight, 0)


def _from_pieces(source: Any, pieces: Any, parts: Any, schema: Schema, place: Any) -> Block:
    xs, ys, ws = [], [], []
    for p, rows in parts:
        part = read_piece(source, pieces[p], schema)
        xs.append(take_rows(part.x, rows))
        ys.append(_chosen(part.y, rows))
        ws.append(_chosen(part.weight, rows))
    y = None if ys[0] is None else np.concatenate([y for y in ys if y is not None])
    weight = None if ws[0] is None else np.concatenate([w for w in ws if w is not None])
    return Block(join_rows(xs, schema.n_features), target(y, schema, place), weight, 0)
