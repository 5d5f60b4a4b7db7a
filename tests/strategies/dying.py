"""Learners whose worker is killed as it asks what others have, at places that a folder names.

A file "SHARD-CALL" in the folder kills the worker whose first shard that is as it makes its CALL-th call, once;
"SHARD-CALL-stop" freezes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutti.counting import Sums
from tutti.errors import Regrouped
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
        for end, sent in (("", signal.SIGKILL), ("-stop", signal.SIGSTOP)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, f"{self._shard}-{self.calls}{end}"))
                os.kill(os.getpid(), sent)


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
        doomed, said = Doomed(self.folder, data), next(program)
        while True:
            doomed.called()
            try:
                answers = yield said
            except Regrouped as news:
                said = program.throw(news)
                continue
            try:
                said = program.send(answers)
            except StopIteration as done:
                shared: Arrays = done.value
                return shared
