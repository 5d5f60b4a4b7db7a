"""A caller on one of two hosts, for test_cut_data.py: its data connections alone are cut.

usage: python -m tests.engines.cut_data ADDRESS TOKEN_FILE TIMEOUT_SECONDS MODE
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

import tutti
from tests.strategies.counting import PUSHED, Counting
from tutti.engines.hosts import Hosts, shutdown
from tutti.errors import RunError
from tutti.protocols import Program
from tutti.runtime.driver import train
from tutti.testing import faults
from tutti.testing.engine import check_good_run, plan
from tutti.types import Fault


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def together(engine: Hosts) -> None:
    """Have all ranks wait for one another for ever."""
    told = False

    def watch(event: object) -> None:
        nonlocal told
        if not told:
            say(began=True)
        told = True

    try:
        program = Program(faults.ROUNDS, {"n_steps": 10**9, "announce": True, "length": 1 << 16})
        engine.launch(program, plan(2)).results(watch)
    except RunError as error:
        say(error=type(error).__name__, text=str(error).splitlines()[0], at=time.monotonic())
    sys.stdin.readline()
    check_good_run(engine, 2)


def apart(engine: Hosts) -> None:
    """Have the ranks work with a parameter server until one is lost or, told so, the run has come to its end."""
    ds = tutti.from_arrays(np.ones((80, 3)), np.arange(80) % 2)
    told = False

    def watch(event: object) -> None:
        nonlocal told
        if not told:
            say(began=True)
        told = True
        if isinstance(event, Fault):
            say(fault=event.rank, reason=event.reason, at=time.monotonic())

    learner = Counting(staleness=2, epochs=10, steps=50, delay=0.01, judges=False)
    strategy = tutti.ParameterServer(staleness=2)
    schema = ds.schema("classification")
    result = train(learner, ds, schema=schema, strategy=strategy, engine=engine, watch=watch)
    say(pushed=int(result.arrays["counts"][PUSHED]), ranks=[report.rank for report in result.reports])
    sys.stdin.readline()


def main(address: str, token_file: str, timeout_seconds: float, mode: str) -> None:
    engine = Hosts(2, f"{address}:0", token_file, 1, timeout_seconds, 60.0)
    say(command=engine.open())
    check_good_run(engine, 2)
    {"together": together, "apart": apart}[mode](engine)
    say(good=True)
    shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
