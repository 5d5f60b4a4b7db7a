"""The one pass over a source that finds its rows, width, labels and weights, and keeps what it decoded if it may.

Pieces are read by threads and merged in the order of the pieces, so the result does not depend on the threads.  The
labels and weights of all rows are kept (8 bytes a row each): splits and stratified shards are planned from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tutti.data import convert, memory
from tutti.data.gather import Gather
from tutti.data.labels import first_bad
from tutti.data.sources import ArraySource, CountedSource, place_of
from tutti.errors import DataError
from tutti.protocols import Part, Piece, Source
from tutti.types import Array, Csr


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass found.  ``whole`` holds all decoded rows if they were kept."""

    pieces: tuple[Piece, ...]
    n_features: int
    sparse: bool
    dtype: str
    n_values: int
    y: Array | None
    weight: Array | None
    names: tuple[str, ...] | None
    whole: Part | None = None

    @property
    def n_rows(self) -> int:
        return sum(p.n_rows or 0 for p in self.pieces)


@dataclass(frozen=True, eq=False)
class _Found:
    """Summary of one piece."""

    n_rows: int
    n_features: int
    sparse: bool
    dtype: str
    n_values: int
    y: Array | None
    weight: Array | None


def scan(source: Source, keep_bytes: int = 0, threads: int | None = None) -> Scan:
    """Read every piece once.

    Parameters
    ----------
    source : what to read.
    keep_bytes : decoded rows are kept as long as they need no more than this.
    threads : pieces read at a time; None means one per core.
    """
    if isinstance(source, ArraySource):
        return _scan_arrays(source)
    pieces = tuple(source.pieces())
    n_stored = sum(p.n_bytes for p in pieces)
    labels_only: Callable[[Piece], Part] | None = getattr(source, "read_labels", None)
    # a source that can read the labels alone (Parquet) is not decoded for nothing
    read = source.read if labels_only is None or n_stored <= keep_bytes else labels_only
    read = getattr(source, "read_briefly", read)
    kept = Gather(keep_bytes if read is not labels_only else 0)

    def look(piece: Piece) -> _Found:
        try:
            part = read(piece)
            kept.put(piece.index, part.x)
        except BaseException:
            kept.stop()
            raise
        x, y, weight = part.x, part.y, part.weight
        n, d = x.shape
        n_values = len(x.values) if isinstance(x, Csr) else n * d
        dtype = str((x.values if isinstance(x, Csr) else x).dtype)
        return _Found(n, d, isinstance(x, Csr), dtype, n_values, None if y is None else np.array(y), weight)

    with ThreadPoolExecutor(min(threads or memory.cores(), max(len(pieces), 1)), "tutti-scan") as pool:
        jobs = [pool.submit(look, p) for p in pieces]
        try:
            found = [j.result() for j in jobs]
        except BaseException:
            kept.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return _merge(source, pieces, found, kept, keep_bytes)


def decoded_bytes(n_rows: int, n_values: int, sparse: bool, dtype: str) -> int:
    """Return the bytes of decoded rows and their labels."""
    item = np.dtype(dtype).itemsize
    return n_values * (item + 4) + (n_rows + 1) * 8 + n_rows * 8 if sparse else n_values * item + n_rows * 8


def _scan_arrays(source: ArraySource) -> Scan:
    x, y = source.x, source.y
    bad = first_bad(y) if y is not None else None
    if bad is not None and y is not None:
        raise DataError(f"Input y contains {'NaN' if np.isnan(y[bad]) else 'infinity'}", row=bad)
    sparse = isinstance(x, Csr)
    n, d = x.shape
    n_values = int(x.indptr[-1]) if sparse else n * d
    dtype = str((x.values if sparse else x).dtype)
    return Scan(source.pieces(), d, sparse, dtype, n_values, y, source.weight, source.names, Part(x, y, source.weight))


def _merge(source: Source, pieces: tuple[Piece, ...], found: Sequence[_Found], kept: Gather, keep_bytes: int) -> Scan:
    n_rows = sum(f.n_rows for f in found)
    if not n_rows:
        where = f" in {pieces[0].path}" if pieces else ""
        raise DataError(f"Found array with 0 sample(s){where} while a minimum of 1 is required: the files hold no rows")
    filled = [f for f in found if f.n_rows]
    n_features = max(f.n_features for f in filled)
    if n_features == 0:
        raise DataError(f"Found array with 0 feature(s) (shape=({n_rows}, 0)) while a minimum of 1 is required.")
    if not filled[0].sparse:
        _check_width(pieces, found)
    counted = tuple(dataclasses.replace(p, n_rows=f.n_rows) for p, f in zip(pieces, found, strict=True))
    y = _join_labels(source, counted, found)
    weight = None if filled[0].weight is None else np.concatenate([f.weight for f in filled if f.weight is not None])
    if weight is not None:
        _check_weights(source, counted, weight)
    scan = Scan(
        counted,
        n_features,
        filled[0].sparse,
        filled[0].dtype,
        sum(f.n_values for f in found),
        y,
        weight,
        source.feature_names,
    )
    fits = decoded_bytes(n_rows, scan.n_values, scan.sparse, scan.dtype) <= keep_bytes
    x = kept.whole(n_features) if fits else None
    return scan if x is None else dataclasses.replace(scan, whole=Part(x, y, weight))


def _check_width(pieces: Sequence[Piece], found: Sequence[_Found]) -> None:
    first = found[0]
    for piece, f in zip(pieces, found, strict=True):
        if f.n_features != first.n_features:
            raise DataError(
                f"{f.n_features} feature columns, but {pieces[0].path} has {first.n_features}: "
                "all files of a data set have the same columns",
                path=piece.path,
            )


def _join_labels(source: Source, pieces: tuple[Piece, ...], found: Sequence[_Found]) -> Array | None:
    filled = [(p, f.y) for p, f in zip(pieces, found, strict=True) if f.n_rows]
    if any(y is None for _, y in filled):
        return None
    texts = [y.dtype.kind in "UO" for _, y in filled if y is not None]
    if any(texts) and not all(texts):
        p, y = next((p, y) for (p, y), text in zip(filled, texts, strict=True) if text and y is not None)
        raise DataError(
            f"label {str(y[0])!r} is text, but labels elsewhere are numbers: write all of one kind", path=p.path
        )
    y = np.concatenate([y for _, y in filled if y is not None])
    bad = first_bad(y)
    if bad is not None:
        path, row = place_of(source, pieces, bad)
        raise DataError(f"the label is {float(y[bad])!r}; labels and targets are finite", path=path, row=row)
    return y


def _check_weights(source: Source, pieces: tuple[Piece, ...], weight: Array) -> None:
    try:
        convert.check_weights(weight)
    except DataError as error:
        if error.row is None:
            raise
        path, row = place_of(source, pieces, error.row)
        raise DataError(error.message, path=path, row=row) from None


def counted(source: Source, found: Scan) -> CountedSource:
    """Return the source with the row counts of the scan, for workers."""
    inner = source.source if isinstance(source, CountedSource) else source
    return CountedSource(inner, found.pieces)
