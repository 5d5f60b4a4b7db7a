"""Where the fits of a search run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from tutti.engines._common import n_cores
from tutti.engines._limits import one_thread
from tutti.estimators._search_path import walk
from tutti.nesting import task


def perform(unit: Sequence[Any]) -> list[dict[str, Any]]:
    """Do the fits of one task."""
    with task():
        return walk(unit) if len(unit) > 1 else [unit[0].alone()]


class Dealer:
    def __init__(self, engine: Any, strategy: Any) -> None:
        self.where, self.reason, self.faults = "Threads", "", 0

    def __call__(self, units: Sequence[Sequence[Any]], done: Callable[[Sequence[Any], list[Any]], None]) -> None:
        out: SimpleQueue[Any] = SimpleQueue()
        it = iter(units)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    unit = next(it, None)
                if unit is None:
                    return
                try:
                    out.put((unit, perform(unit)))
                except BaseException as error:
                    out.put((unit, error))

        with one_thread():
            threads = [threading.Thread(target=work) for _ in range(n_cores())]
            for t in threads:
                t.start()
            for _ in units:
                unit, found = out.get()
                if isinstance(found, BaseException):
                    raise found
                done(unit, found)
