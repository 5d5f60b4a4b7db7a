"""What a training tells, a line an epoch, in a file that other programs read while it grows."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

from tutti.errors import ParameterError
from tutti.types import Event, Round


class EpochLog:
    """Writes JSON lines (.jsonl) or CSV (.csv); an older file of that name is replaced.  None writes nothing.

    Use as a context manager; call it with each event.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.suffix not in (".jsonl", ".csv"):
            raise ParameterError("log", str(path), "write the path of a .jsonl or .csv file, or None")
        self._file: Any = None
        self._columns: csv.DictWriter[str] | None = None

    def __enter__(self) -> EpochLog:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", newline="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def __call__(self, event: Event) -> None:
        """Write the epoch that has ended."""
        if self._file is None or not isinstance(event, Round):
            return
        row = {"step": event.step, "epoch": event.passes, "seconds": event.seconds, "loss": event.objective}
        row |= event.metrics
        if self._path is not None and self._path.suffix == ".csv":
            if self._columns is None:
                self._columns = csv.DictWriter(self._file, list(row))
                self._columns.writeheader()
            self._columns.writerow(row)
        else:
            known = {k: v if math.isfinite(v) else None for k, v in row.items()}
            self._file.write(json.dumps(known) + "\n")
        self._file.flush()
