"""What both engines share: their parameters checked, their places, and how a fault is put into words."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Sequence

from tutti.errors import Aborted, InputError, ParameterError, RankLost
from tutti.protocols import Program
from tutti.types import Fault, Place

LOOK_SECONDS = 0.25  # longest time between two looks at the ranks


def n_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(n: object, **seconds: object) -> None:
    """Raise `ParameterError` unless n is None or a positive int and every duration a positive number."""
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ParameterError("n", n, "write a positive number of workers, or None for one per core")
    for name, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ParameterError(name, value, "write a positive number of seconds")


def check_importable(program: Program) -> None:
    """Raise `InputError` for a program that another process could not import."""
    if program.function.startswith("__main__:"):
        raise InputError(
            f"the program {program.function!r} is defined in __main__, where other processes cannot import it; "
            "move it into a module of its own, or use engine=tutti.Threads()"
        )


def places(n: int | None) -> Sequence[Place]:
    """Return one place per worker on this host; workers share the cores evenly."""
    cores = n_cores()
    n = cores if n is None else n
    host = socket.gethostname()
    return [Place(host, cores=max(cores // n, 1)) for _ in range(n)]


def aborted(rank: int) -> Aborted:
    """What a rank of a stopped run raises at its next step."""
    return Aborted(f"rank {rank}: the run was stopped, because another rank failed or the caller stopped it")


def stopped() -> Aborted:
    """What ``results()`` raises when somebody called ``stop()``."""
    return Aborted("the run was stopped by the caller")


def describe(error: BaseException) -> tuple[str, str]:
    """Return "Type: message" and the traceback as text, without the engine's own frame on top."""
    kind = type(error).__qualname__
    if isinstance(error, SystemExit):
        what = f"{kind}: the program called sys.exit({error.code!r})"
    else:
        what = f"{kind}: {error}" if str(error) else kind
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return what, "".join(traceback.format_exception(type(error), error, inner))


def silent(rank: int, host: str, pid: int, step: int, seconds: float, more: str = "") -> RankLost:
    return RankLost(rank, host, pid, step, f"no sign of life for {seconds:.1f} s{more}")


def lost_rank(error: RankLost, again: bool) -> Fault:
    """The event of a rank without which a tolerant run goes on."""
    how = "it is started again" if again else "the others go on"
    return Fault(f"{error}; {how}", error.rank, error.host, error.pid, error.reason)


def exit_reason(code: int | None, when: str = "") -> str:
    """Say how a process ended from its exit code (minus the signal)."""
    if code is None:
        how = "its process ended"
    elif code >= 0:
        how = f"its process ended by itself with exit code {code}"
    else:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        how = f"its process was killed by signal {-code} ({name})"
        if -code == signal.SIGKILL:
            how += "; if nobody killed it on purpose, the machine may be out of memory"
        if -code == signal.SIGBUS:
            how += "; the machine may be out of shared memory, or a file it had mapped was cut short"
    return how + when
