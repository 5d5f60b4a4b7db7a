"""What a training tells, once an epoch, to files and programs that follow it while it goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tutti.errors import ParameterError
from tutti.types import Event, Round

WANTED = 'write a .jsonl or .csv file, "tensorboard:FOLDER", "mlflow", "mlflow:EXPERIMENT", a list of these, or None'


class Sink(Protocol):
    """One place that is told.  Made before the training, opened when it starts."""

    def open(self, settings: Mapping[str, Any]) -> None: ...

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


class EpochLog:
    """Tells each place named by ``log`` what an epoch brought: epoch, seconds, loss, lr, valid_loss, valid_accuracy.

    Use as a context manager; call it with each event.  A place that fails while the training goes on is left out from
    then on, with a warning.

    Parameters
    ----------
    log : see `WANTED`.
    settings : parameters of the estimator; those that are plain values are told where there is room for them.

    Raises
    ------
    ParameterError : a place that is unknown, or needs what is not installed; nothing has been written.
    """

    def __init__(self, log: Any, settings: Mapping[str, Any] | None = None) -> None:
        places = [] if log is None else list(log) if isinstance(log, list | tuple) else [log]
        self._sinks: list[Sink] = [_sink(place) for place in places]
        self._settings = settings or {}

    def __enter__(self) -> EpochLog:
        opened: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.open(self._settings)
                opened.append(sink)
        except BaseException:
            for sink in opened:
                sink.close(True)
            raise
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        for sink in list(self._sinks):
            self._safely(sink, partial(sink.close, kind is not None))

    def __call__(self, event: Event) -> None:
        """Tell of the epoch that has ended."""
        if isinstance(event, Round):
            values = {"epoch": event.passes, "seconds": event.seconds, "loss": event.objective, **event.metrics}
            for sink in list(self._sinks):
                self._safely(sink, partial(sink.write, event.step, values))

    def _safely(self, sink: Sink, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a server that is away, a full disk: hours of training are worth more than a line
            self._sinks = [s for s in self._sinks if s is not sink]
            message = f"the log {sink!r} failed ({type(error).__name__}: {error}); training goes on without it"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Lines:
    """JSON lines (.jsonl) or CSV (.csv); an older file of that name is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._columns: csv.DictWriter[str] | None = None

    def __repr__(self) -> str:
        return str(self._path)

    def open(self, settings: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", newline="")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **values}
        if self._path.suffix == ".csv":
            if self._columns is None:
                self._columns = csv.DictWriter(self._file, list(row))
                self._columns.writeheader()
            self._columns.writerow(row)
        else:
            known = {k: v if math.isfinite(v) else None for k, v in row.items()}
            self._file.write(json.dumps(known) + "\n")
        self._file.flush()

    def close(self, failed: bool) -> None:
        self._file.close()


def _sink(place: Any) -> Sink:
    if isinstance(place, str):
        kind, colon, rest = place.partition(":")
        if kind == "tensorboard":
            from tutti.estimators._tensorboard import EventFile

            if not rest:
                raise ParameterError("log", place, 'name the folder: "tensorboard:runs/first"')
            return EventFile(Path(rest))
        if kind == "mlflow" and (rest or not colon):
            from tutti.estimators._mlflow import Tracked

            return Tracked(rest or None)
    if not isinstance(place, str | os.PathLike) or Path(place).suffix not in (".jsonl", ".csv"):
        raise ParameterError("log", place, WANTED)
    return _Lines(Path(place))
