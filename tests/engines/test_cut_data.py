"""Data connections that are cut while the control connections live: nobody waits longer than the time-out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
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


class Run:
    """A caller on one host, a worker on the other."""

    def __init__(self, hosts: TwoHosts, token_file: str, *mode: str) -> None:
        self.hosts = hosts
        words = [hosts.addresses[CALLER], token_file, str(TIMEOUT_SECONDS), *mode]
        self.caller = self._start(CALLER, ["tests.engines.cut_data", *words], stderr=None)
        command = self.heard("command")["command"].split()
        self.port = int(command[3].rpartition(":")[2])
        self.worker = self._start(WORKER, command, stderr=subprocess.PIPE)

    def _start(self, host: int, words: list[str], stderr: int | None) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        return self.hosts.start(host, [sys.executable, "-m", *words], cwd=ROOT, text=True, **pipes)

    def heard(self, key: str) -> dict[str, Any]:
        """Return the next line of the caller that has ``key``."""
        lines: IO[str] = self.caller.stdout  # type: ignore[assignment]
        for line in lines:
            found: dict[str, Any] = json.loads(line)
            if key in found:
                return found
        raise AssertionError(f"the caller ended before it said {key!r}")

    def tell(self) -> None:
        assert self.caller.stdin is not None
        self.caller.stdin.write("on\n")
        self.caller.stdin.flush()


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts(rate_mbit=1000, delay_ms=1) as made:
        yield made


def test_ranks_that_wait_for_one_another_end_with_one_exception_that_names_them(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    run = Run(hosts, str(tmp_path / "token"), "together")
    run.heard("began")
    began = time.monotonic()
    hosts.only(run.port)
    found = run.heard("error")
    assert found["error"] == "RankError"
    assert "Unreachable: rank " in found["text"]
    assert "is cut off: its host has not answered" in found["text"]
    assert TIMEOUT_SECONDS - 0.5 < found["at"] - began < TIMEOUT_SECONDS + 1.5
    hosts.only(None)
    run.tell()
    assert run.heard("good")["good"]
    assert run.caller.wait(10) == 0
    _, told = run.worker.communicate(timeout=10)
    assert run.worker.returncode == 0
    assert told.count("joined") == 1


def test_a_worker_that_cannot_reach_a_server_is_lost_and_the_others_go_on(hosts: TwoHosts, tmp_path: Path) -> None:
    run = Run(hosts, str(tmp_path / "token"), "apart")
    run.heard("began")
    began = time.monotonic()
    hosts.only(run.port)
    found = run.heard("fault")
    assert found["fault"] == 1
    assert "Unreachable: rank 2 is cut off" in found["reason"]
    assert found["at"] - began < TIMEOUT_SECONDS + 3.0  # another connection is tried, too
    found = run.heard("pushed")
    assert found == {"pushed": 1000, "ranks": [0, 2]}
    run.tell()
    assert run.heard("good")["good"]


def test_a_worker_that_is_cut_off_for_a_moment_goes_on(hosts: TwoHosts, tmp_path: Path) -> None:
    """For less than the time-out: nothing is noticed but a delay."""
    run = Run(hosts, str(tmp_path / "token"), "apart")
    run.heard("began")
    hosts.only(run.port)
    time.sleep(TIMEOUT_SECONDS / 2)
    hosts.only(None)
    assert run.heard("pushed") == {"pushed": 1000, "ranks": [0, 1, 2]}
    run.tell()
    assert run.heard("good")["good"]
