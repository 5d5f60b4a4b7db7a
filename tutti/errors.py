"""Every error tutti raises on purpose.  Each says what came, what was expected and what to write instead.

TuttiError
|-- InputError (ValueError)          something the caller gave is wrong; nothing ran, nothing is lost
|   |-- DataError                    a file, row or column: carries the place
|   |-- ParameterError               a parameter of an estimator, strategy or engine: carries its name
|   |-- JobError                     a job file: carries the table and key
|   `-- PlanError                    each part is fine, together they make no sense
|-- RunError (RuntimeError)          a run broke
|   |-- RankError                    a rank raised: carries rank, host, pid, step, the original traceback
|   |-- RankLost                     a rank died, was killed or fell silent
|   |-- Unreachable                  seen inside a rank that is cut off from another one
|   |-- RankGone                     seen inside ranks that can go on without another one
|   |-- Regrouped                    seen inside ranks that have begun to
|   `-- Aborted                      seen inside the other ranks when one of them failed
`-- ModelError (ValueError)          a model folder is damaged, or newer than this library
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TuttiError(Exception):
    """Root of every error raised on purpose by tutti."""


class InputError(TuttiError, ValueError):
    """Something the caller gave is wrong; nothing ran and nothing is lost."""


class DataError(InputError):
    """A place in the data is wrong.

    Parameters
    ----------
    message : what is wrong there and what to do about it.
    path : file the data came from, if any.
    row : 1-based line of a text file, 0-based row of an array or of a Parquet file.
    column : name or 0-based number of the column.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        row: int | None = None,
        column: str | int | None = None,
    ) -> None:
        place = []
        if path is not None:
            place.append(str(path))
        if row is not None:
            counted = "row" if path is None or path.endswith((".parquet", ".pq")) else "line"
            place.append(f"{counted} {row}")
        if column is not None:
            place.append(f"column {column!r}" if isinstance(column, str) else f"column {column}")
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.message, self.path, self.row, self.column = message, path, row, column

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_data_error, (self.message, self.path, self.row, self.column)


def _rebuild_data_error(message: str, path: str | None, row: int | None, column: str | int | None) -> DataError:
    return DataError(message, path=path, row=row, column=column)


class ParameterError(InputError):
    """A parameter is out of its range or of the wrong type."""

    def __init__(self, name: str, came: object, expected: str) -> None:
        super().__init__(f"{name}={came!r} is not possible: {expected}")
        self.name, self.came, self.expected = name, came, expected

    def __reduce__(self) -> tuple[object, ...]:
        return ParameterError, (self.name, self.came, self.expected)


class JobError(InputError):
    """A job file is wrong: unknown table or option, missing key, bad value."""


class PlanError(InputError):
    """Each part is fine, together they make no sense; the message gives the reason."""


class RunError(TuttiError, RuntimeError):
    """A run broke while it was going on."""


class RankError(RunError):
    """One rank raised; the others were stopped.

    Parameters
    ----------
    rank, host, pid : who.
    step : last step the rank had reported; -1 before the first.
    error : ``Type: message`` of the original exception.
    traceback : the original traceback as text.
    """

    def __init__(self, rank: int, host: str, pid: int, step: int, error: str, traceback: str) -> None:
        super().__init__(
            f"rank {rank} (host {host}, pid {pid}) failed at step {step}: {error}\n\n"
            f"--- traceback of rank {rank} ---\n{traceback.rstrip()}"
        )
        self.rank, self.host, self.pid, self.step = rank, host, pid, step
        self.error, self.traceback = error, traceback

    def __reduce__(self) -> tuple[object, ...]:
        return RankError, (self.rank, self.host, self.pid, self.step, self.error, self.traceback)


class RankLost(RunError):
    """One rank died, was killed or fell silent; the others were stopped."""

    def __init__(self, rank: int, host: str, pid: int, step: int, reason: str) -> None:
        super().__init__(f"rank {rank} (host {host}, pid {pid}) was lost at step {step}: {reason}")
        self.rank, self.host, self.pid, self.step, self.reason = rank, host, pid, step, reason

    def __reduce__(self) -> tuple[object, ...]:
        return RankLost, (self.rank, self.host, self.pid, self.step, self.reason)


class Unreachable(RunError):
    """Raised inside a rank to which another one's host gives no answer any more, whose control connection may live."""


class RankGone(RunError):
    """Raised by a collective call that cannot end because a rank was lost, where those that are left can regroup."""


class Regrouped(RunError):
    """Raised inside the ranks that are left when they have regrouped; the call that raised it has done nothing.

    Parameters
    ----------
    message : who was lost.
    shards : what this rank hosts now, by shard: what it had and some of those that were left behind.
    part, parts : its number among those that are left, and how many these are.
    """

    def __init__(self, message: str, shards: Mapping[int, Any], part: int, parts: int) -> None:
        super().__init__(message)
        self.shards, self.part, self.parts = shards, part, parts


class Aborted(RunError):
    """Raised inside a rank whose run was stopped because of another rank, or by the caller."""


class ModelError(TuttiError, ValueError):
    """A model folder is damaged, incomplete or written by a newer version."""
