"""A caller on one of two hosts, for test_cut_off.py: runs for ever until a rank is lost, then once more when told.

usage: python -m tests.engines.cut_caller ADDRESS TOKEN_FILE TIMEOUT_SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tutti.engines.hosts import Hosts, shutdown
from tutti.errors import RankLost
from tutti.protocols import Program
from tutti.testing import faults
from tutti.testing.engine import check_good_run, plan


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main(address: str, token_file: str, timeout_seconds: float) -> None:
    engine = Hosts(2, f"{address}:0", token_file, 1, timeout_seconds, 60.0)
    say(command=engine.open())
    pids = [found["pid"] for found in engine.launch(Program(faults.ECHO), plan(2)).results()]
    told = False

    def watch(event: object) -> None:
        nonlocal told
        if not told:
            say(pids=pids)
        told = True

    try:
        engine.launch(Program(faults.ROUNDS, {"n_steps": 10**9, "announce": True}), plan(2)).results(watch)
    except RankLost as error:
        say(rank=error.rank, reason=error.reason, at=time.monotonic())
    sys.stdin.readline()
    check_good_run(engine, 2)
    say(good=True)
    shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
