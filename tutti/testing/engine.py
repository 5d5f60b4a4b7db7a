"""The contract of a `tutti.protocols.Engine` as a test that anybody can run on theirs, and a look at what is left."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutti.errors import DataError, InputError, RankError, RankLost
from tutti.protocols import Engine, Program
from tutti.testing import faults
from tutti.testing.faults import Fault, Moment
from tutti.types import Event, Place, Plan, Round, Seat

_QUICK_SECONDS = 2.0
_ENDING_SECONDS = 10.0


def check_engine(
    engine: Engine,
    sizes: Sequence[int] = (1, 2, 3),
    strikes: Collection[Fault] = faults.IN_PROCESS,
) -> None:
    """Run every rule of the Engine's contract; raises AssertionError at the first that is broken.

    Parameters
    ----------
    engine : what is tested; small time-outs make it faster.
    sizes : numbers of ranks to try.
    strikes : faults to try: `tutti.testing.faults.IN_PROCESS`, plus `OF_A_PROCESS` if every rank has its own process.

    Example
    -------
    >>> import tutti.engines.threads
    >>> check_engine(tutti.engines.threads.Threads(2), sizes=(1, 2), strikes=("raise",))
    """
    check_places(engine)
    for size in sizes:
        check_results(engine, size)
        check_events(engine, size)
        check_stop(engine, size)
        for fault in strikes:
            check_fault(engine, size, fault)


def plan(size: int, n_shards: int = 8) -> Plan:
    """Return a plan of ``size`` ranks on this host with the shards dealt in turn."""
    place = Place(socket.gethostname())
    seats = tuple(Seat(rank, place, tuple(range(rank, n_shards, size))) for rank in range(size))
    return Plan("none", "none", "none", "a test", seats, n_shards)


def check_places(engine: Engine) -> None:
    """At least one place, each with a host and a core; n places if n is given."""
    found = engine.places()
    assert len(found) == engine.n if engine.n is not None else len(found) >= 1
    assert all(place.host and place.cores >= 1 for place in found)


def check_results(engine: Engine, size: int) -> None:
    """Values come back by rank; arguments arrive as they were; sums have the same bits for every size."""
    arguments: dict[str, Any] = {
        "number": 0.1, "text": "héllo", "nested": {"a": (1, None, [True, 2.5]), 3: b"\x00\xff"},
        "strings": np.array(["x", "yy"]), "empty": np.zeros((0, 3)), "small": np.arange(6).reshape(2, 3),
        "wide": np.asfortranarray(np.arange(20_000.0).reshape(100, 200)), "strided": np.arange(100_000)[::3],
    }  # fmt: skip
    found = engine.launch(Program(faults.ECHO, arguments), plan(size)).results()
    assert [f["rank"] for f in found] == list(range(size))
    for came in found:
        for name, wanted in arguments.items():
            same = np.array_equal(came[name], wanted) if isinstance(wanted, np.ndarray) else came[name] == wanted
            assert same, f"argument {name!r} arrived as {came[name]!r}"
    x = np.arange(300_000, dtype=np.float64).reshape(1000, 300)
    for rank, y in enumerate(engine.launch(Program(faults.PLUS_ONE, {"x": x}), plan(size)).results()):
        assert np.array_equal(y, x + 1 + rank)
        y += 1  # a result belongs to the caller
    check_good_run(engine, size)


def check_good_run(engine: Engine, size: int, **arguments: Any) -> None:
    """`faults.rounds` without a fault gives every rank the canonical sums."""
    found = engine.launch(Program(faults.ROUNDS, arguments), plan(size)).results()
    for rank, sums in enumerate(found):
        for step, total in enumerate(sums):
            assert total.tobytes() == faults.expected(8, step, 1000).tobytes(), f"rank {rank}, step {step}: wrong bits"
        assert len(sums) == 4


def check_events(engine: Engine, size: int) -> None:
    """Events reach ``watch`` in the caller's thread, those of a rank in order; what ``watch`` raises ends the run."""
    here, seen = threading.get_ident(), []

    def watch(event: Event) -> None:
        assert threading.get_ident() == here, "watch was called in another thread"
        assert isinstance(event, Round)
        seen.append((int(event.objective), event.step))

    assert engine.launch(Program(faults.ANNOUNCE, {"n_events": 20}), plan(size)).results(watch) == [20] * size
    for rank in range(size):
        assert [step for r, step in seen if r == rank] == list(range(20))

    def refuse(event: Event) -> None:
        raise LookupError("watch had enough")

    try:
        engine.launch(Program(faults.ANNOUNCE, {"n_events": 20}), plan(size)).results(refuse)
    except LookupError:
        return
    raise AssertionError("what watch raised was swallowed")


def check_stop(engine: Engine, size: int) -> None:
    """stop() ends a run that would go on for ever; calling it twice, or after the results, is harmless."""
    run = engine.launch(Program(faults.ROUNDS, {"n_steps": 10**9}), plan(size))
    began = time.perf_counter()
    run.stop()
    run.stop()
    assert time.perf_counter() - began < _QUICK_SECONDS
    run = engine.launch(Program(faults.ECHO), plan(size))
    run.results()
    run.stop()


def check_fault(
    engine: Engine,
    size: int,
    fault: Fault,
    fault_rank: int | None = None,
    moment: Moment = "after_steps",
    timeout_seconds: float | None = None,
) -> BaseException | None:
    """One rank goes wrong: one exception with all that is known about it, in time, and the next run works.

    Returns the exception (None for a rank that leaves early with nobody else there).
    """
    rank = size - 1 if fault_rank is None else fault_rank
    silent = fault in ("freeze", "spin")
    if timeout_seconds is None:
        timeout_seconds = getattr(engine, "timeout_seconds", 0.0)
    check_good_run(engine, size)  # starting workers is not part of the time that is measured below
    arguments = {"fault": fault, "fault_rank": rank, "moment": moment}
    run = engine.launch(Program(faults.ROUNDS, arguments), plan(size))
    began = time.perf_counter()
    caught: BaseException | None = None
    try:
        run.results()
    except (InputError, RankError, RankLost) as error:
        caught = error
    seconds = time.perf_counter() - began
    limit = timeout_seconds + 1.0 if silent else _QUICK_SECONDS
    assert seconds < limit, f"{fault} on {size} ranks was noticed after {seconds:.1f} s"
    _check_fault_told(caught, size, fault, rank, moment)
    check_good_run(engine, size)
    return caught


def _check_fault_told(caught: BaseException | None, size: int, fault: Fault, rank: int, moment: Moment) -> None:
    if fault == "input_error":
        assert isinstance(caught, DataError), f"came {caught!r}"
        assert (caught.path, caught.row, caught.column) == ("rows.csv", 7, "age")
        return
    if fault == "leave":
        assert (caught is None) == (size == 1), f"came {caught!r}"
        assert size == 1 or (isinstance(caught, RankError) and "has returned already" in str(caught)), (
            f"came {caught!r}"
        )
        return
    step = -1 if moment == "before" else 2
    kind = RankError if fault in ("raise", "sys_exit") else RankLost
    assert isinstance(caught, kind), f"{fault} gave {caught!r}"
    assert (caught.rank, caught.host, caught.step) == (rank, socket.gethostname(), step), f"{caught}"
    assert caught.pid > 0
    if isinstance(caught, RankError):
        word = {"raise": "ZeroDivisionError: a fault on purpose", "sys_exit": "sys.exit(3)"}[fault]
        assert word in caught.error
        assert "in strike" in caught.traceback, f"the traceback does not lead to the fault:\n{caught.traceback}"
    elif isinstance(caught, RankLost):
        word = {"os_exit": "exit code 3", "kill": "SIGKILL"}.get(fault, "no sign of life")
        assert word in caught.reason


@dataclass(frozen=True)
class Leftovers:
    """What a process has that a run must not leave behind; take one before and one after, and compare."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    shared_memory: frozenset[str]
    temporary: frozenset[str]
    environment: dict[str, str]
    signals: dict[int, Any]

    @staticmethod
    def now() -> Leftovers:
        """Look at this process; idle workers of `tutti.Processes` are not counted."""
        from tutti.engines.processes import worker_pids

        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        return Leftovers(
            frozenset(t for t in threading.enumerate() if t.is_alive()),
            frozenset(child_pids()) - frozenset(worker_pids()),
            frozenset(_names("/dev/shm", r"tutti|psm_|sem\.mp")),
            frozenset(_names(tempfile.gettempdir(), r"tutti-")),
            environment,
            {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)},
        )

    def new_since(self, before: Leftovers) -> list[str]:
        """Say what is there now and was not before, and what was changed; threads that are just ending are awaited."""
        found = []
        for thread in self.threads - before.threads:
            thread.join(_ENDING_SECONDS)
            if thread.is_alive():
                found.append(f"thread {thread.name}")
        found += [f"child process {pid}" for pid in self.children - before.children if not _is_service(pid)]
        found += [f"/dev/shm/{name}" for name in self.shared_memory - before.shared_memory]
        found += [f"temporary {name}" for name in self.temporary - before.temporary]
        for name in self.environment.keys() | before.environment.keys():
            if self.environment.get(name) != before.environment.get(name):
                found.append(f"environment variable {name}")
        found += [f"handler of signal {n}" for n in self.signals if self.signals[n] != before.signals[n]]
        return found


def _is_service(pid: int) -> bool:
    """True for the one helper that Python's multiprocessing keeps until the interpreter exits."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # it has ended meanwhile


def _names(folder: str, pattern: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if re.match(pattern, name)]
    except OSError:
        return []


def child_pids() -> list[int]:
    """Return the process ids of this process's children (empty where the system does not tell)."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task") if sys.platform == "linux" else []:
        try:
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def thread_limits() -> list[tuple[str, int]]:
    """Return the native thread pools of this process and their number of threads."""
    from tutti.engines._limits import controller

    return sorted((pool.filepath, pool.get_num_threads()) for pool in controller().lib_controllers)


def open_descriptors() -> list[str]:
    """Return what the descriptors of this process point at."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sorted(re.sub(r"\d+", "N", name) for name in found)
