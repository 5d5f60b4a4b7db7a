"""Files appear whole or not at all: written beside their place under another name, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tutti.errors import InputError
from tutti.types import Array

PREDICTION_SUFFIXES = (".csv", ".parquet", ".npy")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes ``path`` when the block ends well and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def prediction_writer(path: Path, classes: Sequence[Any] | None, proba: bool) -> Iterator[Any]:
    """Give ``write(labels, probabilities)`` for batches in the order of the data.

    Columns: "prediction", then "probability_<class>" for each class if ``proba``.  A .npy file holds the labels as a
    plain array, or with ``proba`` a structured array with these columns as fields.

    Raises
    ------
    InputError : for a suffix other than .csv, .parquet or .npy.
    """
    if path.suffix not in PREDICTION_SUFFIXES:
        raise InputError(f"--out {path}: the suffix says what is written; use {' or '.join(PREDICTION_SUFFIXES)}")
    names = ["prediction", *(f"probability_{c}" for c in classes or ())] if proba else ["prediction"]
    with replacing(path) as draft:
        if path.suffix == ".npy":
            kept: list[tuple[Array, Array | None]] = []
            yield lambda labels, p=None: kept.append((labels, p))
            with draft.open("wb") as file:
                np.save(file, _as_array(kept, names), allow_pickle=False)
        else:
            with _ArrowFile(draft, path.suffix, names) as arrow:
                yield arrow.write


class _ArrowFile:
    """A CSV or Parquet file that takes batches; its schema is that of the first one."""

    def __init__(self, draft: Path, suffix: str, names: list[str]) -> None:
        self.draft, self.suffix, self.names = draft, suffix, names
        self._writer: Any = None

    def __enter__(self) -> _ArrowFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is None and kind is None:
            self.write(np.zeros(0), np.zeros((0, len(self.names) - 1)))
        if self._writer is not None:
            self._writer.close()

    def write(self, labels: Array, probabilities: Array | None = None) -> None:
        import pyarrow as pa

        columns = [pa.array(labels.tolist() if labels.dtype.kind == "O" else labels)]
        if len(self.names) > 1 and probabilities is not None:
            columns += [pa.array(np.ascontiguousarray(p)) for p in probabilities.T]
        table = pa.table(columns, names=self.names)
        if self._writer is None:
            self._writer = self._open(table.schema)
        self._writer.write_table(table)

    def _open(self, schema: Any) -> Any:
        if self.suffix == ".csv":
            from pyarrow.csv import CSVWriter

            return CSVWriter(str(self.draft), schema)
        from pyarrow.parquet import ParquetWriter

        return ParquetWriter(str(self.draft), schema)


def _as_array(kept: list[tuple[Array, Array | None]], names: list[str]) -> Array:
    labels = np.concatenate([labels for labels, _ in kept]) if kept else np.zeros(0)
    if labels.dtype.kind == "O":
        labels = labels.astype(str)
    if len(names) == 1:
        return labels
    table = np.empty(len(labels), dtype=[(names[0], labels.dtype), *((n, "f8") for n in names[1:])])
    table[names[0]] = labels
    if kept:
        probabilities = np.concatenate([p for _, p in kept if p is not None])
        for i, name in enumerate(names[1:]):
            table[name] = probabilities[:, i]
    return table
