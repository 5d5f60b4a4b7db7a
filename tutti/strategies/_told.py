"""What is told of a training whose steps nobody makes alone: whoever ends an epoch notes it, one rank tells it."""

from __future__ import annotations

import time

import numpy as np

from tutti.protocols import Commons, Trainable, Worker
from tutti.types import Array, Arrays, Progress, Round

_ROWS = 1024  # noted and not told yet, at most
_NOTED, _TOLD, _STEP, _BEGAN = range(4)
_STEP_OF, _SECONDS, _OBJECTIVE, _GAP, _PASSES, _METRICS = range(6)


class Told:
    """Notes in memory that all ranks see.

    Parameters
    ----------
    commons : has that memory.   progress : of the state before the first push.   step : of that state.
    join : others have begun; what is noted stays as it is.
    """

    def __init__(self, commons: Commons, progress: Progress, step: int, join: bool = False) -> None:
        self._names = sorted(progress.metrics)
        self._words = commons.memory(8 * 4).view(np.int64)
        if not join:
            self._words[:] = 0, 0, step, time.perf_counter_ns()
        width = _METRICS + len(self._names)
        self._rows = commons.memory(8 * _ROWS * width).view(np.float64).reshape(_ROWS, width)

    @property
    def kept(self) -> Array:
        """What another process needs to go on from, where all is told."""
        return self._words

    def go_on(self, kept: Array) -> None:
        """Go on from what another process has `kept`."""
        self._words[:] = kept

    def note(self, learner: Trainable, shared: Arrays) -> None:
        """Note the state if it is worth an event; one rank at a time calls it."""
        words = self._words
        if not learner.tells(shared):
            return
        step, _ = learner.milestone(shared)
        if step <= words[_STEP] or words[_NOTED] - words[_TOLD] >= _ROWS:
            return
        p = learner.progress(shared)
        seconds = (time.perf_counter_ns() - words[_BEGAN]) / 1e9
        metrics = [p.metrics[name] for name in self._names]
        self._rows[words[_NOTED] % _ROWS] = step, seconds, p.objective, p.gap, p.passes, *metrics
        words[_STEP] = step
        words[_NOTED] += 1

    def tell(self, worker: Worker) -> None:
        """Emit what was noted; only the rank that speaks for all calls it."""
        words = self._words
        while words[_TOLD] < words[_NOTED]:
            row = self._rows[words[_TOLD] % _ROWS].tolist()
            words[_TOLD] += 1
            metrics = dict(zip(self._names, row[_METRICS:], strict=True))
            plain = row[_SECONDS], row[_OBJECTIVE], row[_GAP], row[_PASSES]
            worker.emit(Round(int(row[_STEP_OF]), *plain, "gradient", metrics))
