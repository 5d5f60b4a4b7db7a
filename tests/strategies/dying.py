"""Learners whose worker is killed as it asks what others have, at places that a folder names.

A file "SHARD-CALL" in the folder kills the worker that was dealt the shard and makes its CALL-th call, once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutti.counting import Sums
from tutti.learners.boosting import Boosting
from tutti.learners.forest import ForestLearner
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Schema


class Doomed:
    """Counts the calls of one worker, and ends it at those for which there is a file."""

    def __init__(self, folder: str, shards: Mapping[int, ShardData]) -> None:
        self._folder, self._shard, self.calls = folder, min(shards), 0

    def called(self) -> None:
        self.calls += 1
        try:
            os.unlink(os.path.join(self._folder, f"{self._shard}-{self.calls}"))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class DoomedSums:
    """The sums of a worker, each of which may be its last."""

    def __init__(self, sums: Sums, doomed: Doomed) -> None:
        self._sums, self._doomed, self.n_shards = sums, doomed, sums.n_shards

    @property
    def alone(self) -> bool:
        return self._sums.alone

    def total(self, whole: Array) -> Array:
        self._doomed.called()
        return self._sums.total(whole)

    def largest(self, values: Array) -> Array:
        self._doomed.called()
        return self._sums.largest(values)

    def room(self, length: int) -> Array:
        return self._sums.room(length)

    def gather(self, payload: bytes) -> list[bytes]:
        self._doomed.called()
        return self._sums.gather(payload)


@dataclass(frozen=True)
class DyingBoosting(Boosting):
    """Boosting with workers that are killed.

    Parameters
    ----------
    folder : where the files are.
    """

    folder: str = ""

    def rounds(
        self, schema: Schema, shards: Mapping[int, ShardData], sums: Sums, *, seed: int, start: Arrays | None = None
    ) -> Iterator[Arrays]:
        doomed = Doomed(self.folder, shards)
        return super().rounds(schema, shards, DoomedSums(sums, doomed), seed=seed, start=start)


@dataclass(frozen=True)
class DyingForest(ForestLearner):
    """A forest with workers that are killed.

    Parameters
    ----------
    folder : where the files are.
    """

    folder: str = ""

    def spread(
        self, schema: Schema, data: Mapping[int, ShardData], seed: int, start: Arrays | None, rank: int, size: int
    ) -> Generator[bytes, list[Any], Arrays]:
        program = super().spread(schema, data, seed, start, rank, size)
        doomed, answers, news = Doomed(self.folder, data), None, None
        while True:
            try:
                said = next(program) if answers is None and news is None else None
                said = said or (program.throw(news) if news is not None else program.send(answers))
            except StopIteration as done:
                return done.value
            doomed.called()
            answers = news = None
            try:
                answers = yield said
            except BaseException as error:
                news = error
