"""A worker that is cut off, one way or both ways, is found by the caller, stops by itself, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tutti.testing.two_hosts import TwoHosts, two_hosts, why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.thorough,
    pytest.mark.alone,
    pytest.mark.timeout(120),
]
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 2.0
CALLER, WORKER = 0, 1


def mute(host: int) -> Callable[[TwoHosts], None]:
    """Return what lets nothing out of a host, though it still hears the other one."""

    def cut(hosts: TwoHosts) -> None:
        route(hosts, host, "add")

    return cut


def route(hosts: TwoHosts, host: int, verb: str) -> None:
    there = hosts.addresses[1 - host]
    subprocess.run(["ip", "-n", hosts.names[host], "route", verb, "blackhole", f"{there}/32"], check=True)


def heal(hosts: TwoHosts, cut: str) -> None:
    if cut == "both":
        hosts.join(WORKER)
    else:
        route(hosts, CALLER if cut == "caller" else WORKER, "del")


CUTS: dict[str, Callable[[TwoHosts], None]] = {
    "both": lambda hosts: hosts.cut(WORKER),
    "caller": mute(CALLER),
    "worker": mute(WORKER),
}


def heard(process: subprocess.Popen[str], key: str) -> dict[str, Any]:
    """Return the next line of a caller that has ``key``."""
    lines: IO[str] = process.stdout  # type: ignore[assignment]
    for line in lines:
        found: dict[str, Any] = json.loads(line)
        if key in found:
            return found
    raise AssertionError(f"the caller ended before it said {key!r}")


def ended(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("cut", CUTS)
def test_a_worker_that_is_cut_off_is_found_stops_by_itself_and_comes_back(cut: str, tmp_path: Path) -> None:
    with two_hosts(rate_mbit=1000, delay_ms=1) as hosts:
        words = [hosts.addresses[CALLER], str(tmp_path / "token"), str(TIMEOUT_SECONDS)]
        caller = hosts.start(
            CALLER,
            [sys.executable, "-m", "tests.engines.cut_caller", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        command = heard(caller, "command")["command"].split()
        worker = hosts.start(
            WORKER, [sys.executable, "-m", "tutti", *command[1:]], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        pids = heard(caller, "pids")["pids"]
        began = time.monotonic()
        CUTS[cut](hosts)
        found = heard(caller, "rank")
        assert found["rank"] == 1
        assert "no sign of life" in found["reason"]
        assert found["at"] - began < TIMEOUT_SECONDS + 1.0
        assert ended(pids[1], TIMEOUT_SECONDS + 3.0 - (time.monotonic() - began))
        heal(hosts, cut)
        assert caller.stdin is not None
        caller.stdin.write("again\n")
        caller.stdin.flush()
        assert heard(caller, "good")["good"]
        assert caller.wait(10) == 0
        _, told = worker.communicate(timeout=10)
        assert worker.returncode == 0
        assert "the connection to the caller was lost (no sign of life" in told
        assert told.count("joined") == 2
