"""Programs for any engine that go wrong on purpose, at a given rank and step: faults as a script.

`rounds` is a small training loop: every round reduces, gathers and waits.  Its fault strikes before the first
collective call, while all other ranks wait, or after some rounds.
"""

from __future__ import annotations

import os
import signal
import time
from itertools import count
from typing import Any, Literal, NoReturn

import numpy as np

from tutti._board import LIFE
from tutti.comm import connect
from tutti.comm.reduction import tree_sum_of
from tutti.errors import DataError
from tutti.protocols import Communicator, RankContext
from tutti.types import Array, Round

Fault = Literal["raise", "input_error", "sys_exit", "leave", "spin", "os_exit", "kill", "freeze"]
Moment = Literal["before", "others_wait", "after_steps"]

IN_PROCESS: tuple[Fault, ...] = ("raise", "input_error", "sys_exit", "leave")
"""Faults that an engine survives even if its ranks live in the caller's process; "leave" returns early."""

OF_A_PROCESS: tuple[Fault, ...] = ("os_exit", "kill", "freeze")
"""Faults that end or stop the whole process of the rank."""

MOMENTS: tuple[Moment, ...] = ("before", "others_wait", "after_steps")

ROUNDS = "tutti.testing.faults:rounds"
OUTLIVE = "tutti.testing.faults:outlive"
ECHO = "tutti.testing.faults:echo"
PLUS_ONE = "tutti.testing.faults:plus_one"
ANNOUNCE = "tutti.testing.faults:announcer"


def strike(fault: Fault) -> None:
    """Do what ``fault`` says to the calling thread or process."""
    if fault == "raise":
        raise ZeroDivisionError("a fault on purpose")
    if fault == "input_error":
        raise DataError("a fault on purpose", path="rows.csv", row=7, column="age")
    if fault == "sys_exit":
        raise SystemExit(3)
    if fault == "spin":
        _spin()
    if fault == "os_exit":
        os._exit(3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)


def _spin() -> NoReturn:
    """Run Python code for ever, without a step or a collective call."""
    while True:
        time.sleep(0.001)


def values(shard: int, step: int, length: int) -> Array:
    """What `rounds` sums: numbers of so different sizes that another order of additions gives other bits."""
    return np.sin(np.arange(1, length + 1, dtype=np.float64) * (shard + 1) + step) * 10.0 ** (3 * shard % 13)


def expected(n_shards: int, step: int, length: int) -> Array:
    """The sum over all shards in the canonical tree."""
    return tree_sum_of([values(s, step, length) for s in range(n_shards)], n_shards)


def rounds(
    context: RankContext,
    n_steps: int = 4,
    n_shards: int = 8,
    length: int = 1000,
    fault: Fault | None = None,
    fault_rank: int = 0,
    fault_step: int = 2,
    moment: Moment = "after_steps",
    announce: bool = False,
) -> list[Array]:
    """Sum `values` of the shards of every rank in ``n_steps`` rounds and return the sums, (n_steps, length).

    Parameters
    ----------
    fault : what happens on ``fault_rank``; None: nothing.
    moment : "before": ahead of any collective call; "others_wait": in round ``fault_step``, when every other rank
        waits; "after_steps": at the beginning of round ``fault_step``.
    announce : emit a `Round` event in every round.
    """
    guilty = fault is not None and context.seat.rank == fault_rank
    if guilty and moment == "before" and fault is not None:
        if fault == "leave":
            return []
        strike(fault)
    comm = connect(context.link)
    sums: list[Array] = []
    for step in range(n_steps):
        context.at_step(step)
        if announce:
            context.emit(Round(step, 0.0, float(context.seat.rank), float("inf"), float(step)))
        if guilty and step == fault_step and moment != "before" and fault is not None:
            if moment == "others_wait":
                _until_others_wait(context)
            if fault == "leave":
                return sums
            strike(fault)
        sums.append(_one_round(context, comm, n_shards, step, length))
    comm.close()
    return sums


def _one_round(context: RankContext, comm: Communicator, n_shards: int, step: int, length: int) -> Array:
    parts = {s: values(s, step, length) for s in context.seat.shards}
    total = comm.all_reduce(parts, n_shards).copy()
    said = comm.all_gather(f"{comm.rank}:{step}".encode() * (step + 1))
    if said != [f"{rank}:{step}".encode() * (step + 1) for rank in range(comm.size)]:
        raise AssertionError(f"all_gather returned {said}")
    comm.barrier()
    return total


def _until_others_wait(context: RankContext) -> None:
    from tutti._board import WAITING

    link = context.link
    others = [r for r in range(link.size) if r != link.rank]
    while not all(link.board.get(r, WAITING) for r in others):
        os.sched_yield()


def outlive(
    context: RankContext,
    fault: Fault,
    fault_ranks: tuple[int, ...] = (1,),
    lives: int = 1,
    patience_seconds: float = 60.0,
) -> dict[str, Any]:
    """Go on until the board says of every rank in ``fault_ranks`` that it is lost, or back.

    Those ranks strike at step 2, in each of their first ``lives`` lives.  No collective call is made: in a tolerant
    run they are for programs that know who is there.
    """
    board, seat = context.link.board, context.seat
    deadline = time.perf_counter() + patience_seconds
    for step in count():
        context.at_step(step)
        if step == 2 and seat.rank in fault_ranks and seat.life < lives:
            strike(fault)
        if all(board.lost(r) or board.get(r, LIFE) >= lives for r in fault_ranks) and step > 2:
            lost = [r for r in range(context.link.size) if board.lost(r)]
            return {"rank": seat.rank, "pid": os.getpid(), "life": seat.life, "lost": lost}
        if time.perf_counter() > deadline:
            raise TimeoutError(f"rank {seat.rank} heard nothing of ranks {fault_ranks}")
        time.sleep(0.001)
    raise AssertionError("unreachable")


def echo(context: RankContext, **arguments: Any) -> dict[str, Any]:
    """Return who this rank is and what it was given."""
    return {"rank": context.seat.rank, "pid": os.getpid(), **arguments}


def plus_one(context: RankContext, x: Array) -> Array:
    """Return x + 1 + rank: a large array in, a large array out."""
    return np.asarray(x + 1 + context.seat.rank)


def announcer(context: RankContext, n_events: int) -> int:
    """Emit `Round` events 0..n_events-1 from every rank; ``objective`` is the rank."""
    for step in range(n_events):
        context.emit(Round(step, 0.0, float(context.seat.rank), float("inf"), float(step)))
    return n_events
