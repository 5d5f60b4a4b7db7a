"""Where the fits of a search run: in this thread, on threads, or on processes; and how their outcomes come back.

Even fits that let go of the interpreter most of the time are in each other's way on threads, again and again, while
processes cost their start and one copy of the rows; so they take over where seconds of work are left.

Outcomes are scores and texts, so they travel as JSON.  While a run goes on they are told at once by a thread of this
process, and through a private file by other processes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from tutti._carried import Carried, carry
from tutti.data import from_arrays
from tutti.data.memory import available_bytes
from tutti.engines._common import n_cores
from tutti.engines._limits import one_thread
from tutti.engines.processes import Processes, worker_pids
from tutti.engines.threads import Threads
from tutti.errors import InputError, ParameterError, PlanError
from tutti.estimators._search_path import values_of, walk
from tutti.learners.calls import Calls, answers
from tutti.nesting import inside
from tutti.nesting import task as nested
from tutti.protocols import Engine
from tutti.runtime.driver import draft_plan, train
from tutti.strategies.task_parallel import TaskParallel
from tutti.types import Event

Outcomes = list[dict[str, Any]]
Done = Callable[[Sequence[Any], Outcomes], None]

_SHORT_SECONDS = 0.02  # what is left of a search: below that nobody is asked to help
_PROCESS_SECONDS = 3.0  # what is left: below that processes start in vain
_LONG_SECONDS = 10.0  # a fit: nothing that is imported or compiled once takes as long
_MANY_VALUES = 1e8  # that fits of our own read: that is some tenths of a second, so nobody needs a look at the first
_WEEK = 7 * 86400.0  # a fit may take long; a thread cannot be ended anyway


class Bench:
    """The units of a search as numbered calls.

    Parameters
    ----------
    units : fits that go together.
    spool : file to which a process appends what it has found, None for threads.
    tell : called with (number, outcomes) by threads, None for processes.
    """

    def __init__(self, units: Sequence[Sequence[Any]], spool: str | None, tell: Any = None) -> None:
        self._units, self._spool, self._tell = units, spool, tell
        self._stopped = False

    def __call__(self, i: int) -> bytes:
        if self._stopped:
            return b"null"
        try:
            found: Outcomes | None = perform(self._units[i])
        except Exception:
            found, self._stopped = None, True  # the caller does the fit again, and gets the error first-hand
        text = json.dumps(found).encode()
        if self._tell is not None:
            self._tell(i, found)
        elif self._spool is not None:
            with open(self._spool, "ab", buffering=0) as file:
                file.write(json.dumps([i, found]).encode() + b"\n")
        return text


def perform(unit: Sequence[Any]) -> Outcomes:
    """Do the fits of one task."""
    return walk(unit) if len(unit) > 1 else [unit[0].alone()]


class Dealer:
    """Deals the fits of a search to the workers of an engine.

    Parameters
    ----------
    engine, strategy : what the caller asked for.

    Attributes
    ----------
    where, reason : the engine that did the work, and why it was taken.
    faults : workers lost on the way.
    """

    def __init__(self, engine: Any, strategy: Any) -> None:
        if (isinstance(engine, str) and engine != "auto") or not isinstance(engine, str | Engine):
            raise ParameterError("engine", engine, 'write "auto" or an object such as tutti.Processes(2)')
        if isinstance(strategy, str) and strategy != "auto":
            raise ParameterError("strategy", strategy, 'write "auto" or tutti.TaskParallel()')
        self._strategy = TaskParallel() if isinstance(strategy, str) else strategy
        if not isinstance(self._strategy, TaskParallel):
            raise PlanError(f"the work of a search is tasks: use tutti.TaskParallel() instead of {strategy!r}")
        if not isinstance(engine, str | Threads | Processes) or getattr(engine, "transport", "shm") != "shm":
            raise PlanError(
                f"a search runs code of its caller, which stays on this host: use tutti.Threads or tutti.Processes "
                f"instead of {engine!r}"
            )
        self._engine: Any = engine
        self.where, self.reason, self.faults = "", "", 0

    def __call__(self, units: Sequence[Sequence[Any]], done: Done) -> None:
        """Do all units; ``done`` hears of each once, in this thread.

        Raises
        ------
        Exception : what a fit raised, where the search is told to raise errors.
        """
        engine, left = self._engine, list(units)
        if isinstance(engine, str):
            engine, left = self._chosen(left, done)
        if left:
            self.where = repr(engine)
            self._run(engine, left, done)

    def _chosen(self, units: list[Sequence[Any]], done: Done) -> tuple[Engine, list[Sequence[Any]]]:
        """Decide where the units are done; if that is not plain, do the first one or two here, looking at the clock."""
        if inside() or n_cores() == 1:
            self.reason = "one core is free"
            return Threads(1, timeout_seconds=_WEEK), units
        left, rest = list(units), math.inf
        own = len(units[0]) > 1  # a path: fits of our own, whose kernels let go of the interpreter
        if own and sum(values_of(unit) for unit in units if len(unit) > 1) > _MANY_VALUES:
            self.reason = "fits of tutti's own, which let go of the interpreter"
            return Threads(timeout_seconds=_WEEK), left
        ready = own or len(worker_pids()) >= n_cores()
        for _ in range(1 if ready else 2):  # the first may have imported and compiled; nobody starts processes for that
            if not left or rest <= _PROCESS_SECONDS:
                break
            first, began = left.pop(0), time.perf_counter()
            with one_thread(), nested():
                found = perform(first)
            done(first, found)
            spent = time.perf_counter() - began
            rest = spent * sum(map(len, left)) / len(first)
            if spent > _LONG_SECONDS:
                break
        if rest < _SHORT_SECONDS:
            self.where, self.reason = "Threads(1)", f"about {rest:.3f} s of work in all: no helper is worth it"
            return Threads(1, timeout_seconds=_WEEK), left
        self.reason = f"about {rest:.2g} s of work"
        if own:
            self.reason += " that let go of the interpreter"
        elif rest <= _PROCESS_SECONDS:
            self.reason += ": shorter than processes take to start"
        elif (why := _unsendable(left)) is None:
            return Processes(), left
        else:
            self.reason += f", on threads because {why}"
        return Threads(timeout_seconds=_WEEK), left

    def _run(self, engine: Engine, units: list[Sequence[Any]], done: Done) -> None:
        open_units, lock = set(range(len(units))), threading.Lock()
        failed: list[int] = []

        def take(i: int, found: Outcomes | None) -> None:
            with lock:
                if i in open_units and found is not None:
                    open_units.discard(i)
                    done(units[i], found)

        with ExitStack() as stack:
            spool = None
            if isinstance(engine, Processes):
                spool = stack.enter_context(_Spool(take))
                bench: Any = _sendable(units, spool.path)
            else:
                bench = Bench(units, None, take)
            calls = Calls(bench, tuple(float(len(unit)) for unit in units), "fits")
            arrays = self._train(calls, engine, None if spool is None else spool.look)
        for i, text in enumerate(answers(arrays)):
            found = json.loads(text)
            take(i, found)
            failed += [i] if found is None else []
        for i in failed:
            done(units[i], perform(units[i]))

    def _train(self, calls: Calls, engine: Engine, look: Callable[[], None] | None) -> Any:
        data = from_arrays(np.zeros((1, 1)), np.zeros(1))  # the rows are in the calls
        schema = data.schema("regression")
        plan = draft_plan(data, schema, calls, self._strategy, engine, 1)

        def watch(event: Event) -> None:
            if look is not None:
                look()

        result = train(
            calls, data, schema=schema, strategy=self._strategy, engine=engine, plan=plan, n_shards=1, watch=watch
        )
        self.faults += result.faults
        return result.arrays


class _Spool:
    """A private file to which workers append; removed at the end."""

    def __init__(self, take: Callable[[int, Outcomes | None], None]) -> None:
        self._take, self._at = take, 0
        handle, self.path = tempfile.mkstemp(prefix="tutti-search-")
        os.close(handle)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.look()
        finally:
            os.unlink(self.path)

    def look(self) -> None:
        """Take what has come since the last look; half a line is left for the next."""
        with open(self.path, "rb") as file:
            file.seek(self._at)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._take(*json.loads(line))


def _sendable(units: Sequence[Sequence[Any]], spool: str | None) -> Carried:
    """Return a `Bench` that other processes can read."""
    return carry(
        Bench([[fit.bare() for fit in unit] for unit in units], spool),
        "the search",
        "let what the estimators hold be copyable, or use engine=tutti.Threads()",
        apart=True,
    )


def _unsendable(units: Sequence[Sequence[Any]]) -> str | None:
    """Return why other processes should not get the units, None if they can: their rows are copied for them once."""
    try:
        sent = _sendable(units, None)
    except InputError:
        return "what the estimators hold cannot be copied"
    n_bytes = sent.payload.nbytes + sum(buffer.nbytes for buffer in sent.buffers)
    return None if 2 * n_bytes <= available_bytes() else "a copy of the rows would take half of the free memory"
