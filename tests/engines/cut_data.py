"""A caller on one of two hosts, for test_cut_data.py: goes on while only its data connections are cut.

usage: python -m tests.engines.cut_data ADDRESS TOKEN_FILE TIMEOUT_SECONDS MODE
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tutti.engines.hosts import Hosts, shutdown
from tutti.errors import RunError
from tutti.protocols import Program
from tutti.testing import faults
from tutti.testing.engine import check_good_run, plan


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


def main(address: str, token_file: str, timeout_seconds: float) -> None:
    engine = Hosts(2, f"{address}:0", token_file, 1, timeout_seconds, 60.0)
    say(command=engine.open())
    check_good_run(engine, 2)
    together(engine)
    say(good=True)
    shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
