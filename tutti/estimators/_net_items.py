"""Data that comes row by row (torch's Datasets) or in columns (Arrow), as arrays with the rows first.

Every row is read once and kept: shards need to find a row again in every epoch.  Whoever has more rows than memory puts
them into Parquet and reads that as a stream.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tutti.data.convert import as_numpy
from tutti.data.memory import available_bytes
from tutti.errors import DataError, InputError
from tutti.types import Array

_CHUNK = 1024  # rows that are stacked at once


def is_rows(data: Any) -> bool:
    """Tell a torch Dataset, map-style or iterable, from arrays and frames; a DataLoader is refused with the way out.

    Raises
    ------
    InputError : for a DataLoader.
    """
    if hasattr(data, "dataset") and hasattr(data, "batch_sampler"):
        raise InputError(
            "a DataLoader cuts its own batches, which tutti does for all workers: give its dataset, "
            "fit(loader.dataset), and batch_size to the estimator"
        )
    if hasattr(data, "shape") or isinstance(data, Mapping | tuple | list | str) or is_arrow(data):
        return False
    return all(hasattr(data, name) for name in ("__getitem__", "__len__")) or _is_stream(data)


def _is_stream(data: Any) -> bool:
    loaded: Any = sys.modules.get("torch.utils.data")  # whoever has such a Dataset has loaded it
    return loaded is not None and isinstance(data, loaded.IterableDataset)


def collected(items: Any) -> dict[str, Array]:
    """Return the rows of a torch Dataset as arrays by name.

    An item is a mapping by name, a tuple (x, y, x2, ...), or x alone.

    Raises
    ------
    DataError : there is no row, or one differs in kind or shape from the first.
    InputError : the rows do not fit into memory, as those of an endless stream.
    """
    chunks: dict[str, list[Array]] = {}
    n_rows = n_bytes = 0
    most = available_bytes() // 4  # they are joined into one array, and then shared with the workers
    for rows in _chunks(items if _is_stream(items) else (items[i] for i in range(len(items)))):
        for name, array in _stacked(rows, n_rows).items():
            before = chunks.setdefault(name, [])
            if (n_rows and not before) or (before and before[0].shape[1:] != array.shape[1:]):
                raise DataError(f"{name!r} is {array.shape[1:]} here and was not so in the first row", row=n_rows)
            before.append(array)
            n_bytes += array.nbytes
        n_rows += len(rows)
        if n_bytes > most:
            raise InputError(
                f"{n_rows:,} rows take {n_bytes / 1e9:.3g} GB, and there is no end: a Dataset is read once "
                "into memory, so bound it (itertools.islice), or write it to Parquet and give tutti.read_parquet(...)"
            )
    if not n_rows:
        raise DataError("the Dataset has no row")
    lengths = {name: sum(map(len, parts)) for name, parts in chunks.items()}
    if set(lengths.values()) != {n_rows}:
        raise DataError(f"not every row has every part: {', '.join(f'{k} {n} times' for k, n in lengths.items())}")
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    rows: list[Any] = []
    for item in items:
        rows.append(item)
        if len(rows) == _CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows


def _stacked(rows: list[Any], at: int) -> dict[str, Array]:
    """Return some rows as arrays by name; ``at`` is the number of the first."""
    named = [_named(item) for item in rows]
    for i, row in enumerate(named):
        if row.keys() != named[0].keys():
            raise DataError(f"this row has {_listed(row)}, the one of number {at} has {_listed(named[0])}", row=at + i)
    found = {}
    for name in named[0]:
        values = [np.asarray(as_numpy(row[name])) for row in named]
        for i, value in enumerate(values):
            if value.shape != values[0].shape:
                raise DataError(f"{name!r} has shape {value.shape}, before it was {values[0].shape}", row=at + i)
        found[name] = np.stack(values)
    return found


def _named(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, tuple | list):
        return dict(zip(("x", "y", *(f"x{i}" for i in range(2, len(item)))), item, strict=False))
    return {"x": item}


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row))


# Arrow


def is_arrow(data: Any) -> bool:
    """Tell an Arrow table."""
    return hasattr(data, "column_names") and hasattr(data, "num_rows")


def arrow_arrays(table: Any) -> dict[str, Array]:
    """Return the columns of an Arrow table as arrays; lists of a fixed size become further dimensions.

    Raises
    ------
    DataError : a column has nulls, or holds no numbers.
    """
    return {name: _column(name, table.column(name).combine_chunks()) for name in table.column_names}


def has_lists(table: Any) -> bool:
    """Tell whether a column of an Arrow table has more than a number per row."""
    return any(hasattr(kind, "list_size") or hasattr(kind, "storage_type") for kind in table.schema.types)


def _column(name: str, column: Any) -> Array:
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):  # of older Arrow, where a column without rows stays one
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise DataError(
            "a value is missing: fill or drop it first", row=column.is_null().index(True).as_py(), column=name
        )
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        shape = getattr(kind, "shape", None)
        flat = _column(name, column.storage)
        return flat if shape is None else flat.reshape(len(column), *shape)
    if pa.types.is_fixed_size_list(kind):
        return _column(name, column.flatten()).reshape(len(column), kind.list_size, *_inner(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        raise DataError(f"its rows are lists of any length ({kind}); cast them to lists of a fixed size", column=name)
    found: Array = column.to_numpy(zero_copy_only=False)
    return found


def _inner(kind: Any) -> tuple[int, ...]:
    return (kind.list_size, *_inner(kind.value_type)) if hasattr(kind, "list_size") else ()
