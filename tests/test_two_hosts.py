"""Two hosts on one machine: the link has its delay and rate, nothing stays behind, and sums travel over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tutti._secure import Token
from tutti.testing.two_hosts import TwoHosts, two_hosts, why_not

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.alone]

ROOT = Path(__file__).resolve().parent.parent
ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    server.settimeout(20)
    sock, _ = server.accept()
    with sock:
        while data := sock.recv(1 << 16):
            sock.sendall(data[:1])
"""
ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as sock:
    shots = []
    for _ in range(5):
        began = time.perf_counter()
        sock.sendall(b"x")
        sock.recv(1)
        shots.append(time.perf_counter() - began)
    print(min(shots))
"""


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def round_trip(hosts: TwoHosts) -> float:
    server = hosts.start(0, [sys.executable, "-c", ECHO, hosts.addresses[0]], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    words = [sys.executable, "-c", ASK, hosts.addresses[0], port]
    client = hosts.start(1, words, stdout=subprocess.PIPE, text=True)
    said, _ = client.communicate(timeout=30)
    server.communicate(timeout=30)
    return float(said)


@pytest.mark.thorough
def test_a_packet_takes_the_delay_of_the_link_and_the_hosts_go_with_the_block() -> None:
    with two_hosts(rate_mbit=100, delay_ms=20) as hosts:
        assert all(name in namespaces() for name in hosts.names)
        assert 0.040 <= round_trip(hosts) < 0.1
    assert not any(name in namespaces() for name in hosts.names)


@pytest.mark.thorough
def test_the_hosts_go_when_the_block_fails_and_so_do_their_processes() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with two_hosts(rate_mbit=1000, delay_ms=0) as hosts:
            started.append(hosts.start(0, ["sleep", "1000"]))
            names.extend(hosts.names)
            raise ZeroDivisionError

    names: list[str] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert started[0].poll() is not None
    assert names
    assert not any(name in namespaces() for name in names)


@pytest.mark.thorough
def test_the_hosts_go_when_who_made_them_is_killed() -> None:
    code = (
        "import os, signal, sys\n"
        "from tutti.testing.two_hosts import two_hosts\n"
        "with two_hosts(rate_mbit=10, delay_ms=0) as hosts:\n"
        "    print(hosts.names[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    name = done.stdout.strip()  # the relay holds the other end: this returns when it, too, has ended
    assert name
    assert name not in namespaces()


@pytest.mark.thorough
def test_sums_over_an_encrypted_link_are_right() -> None:
    rank, around = ROOT / "benchmarks/_link.py", {**os.environ, "PYTHONPATH": str(ROOT)}
    with two_hosts(rate_mbit=1000, delay_ms=1) as hosts:
        ranks = []
        for host in (0, 1):
            words = [str(host), hosts.addresses[0], hosts.devices[host], str(4 << 20), "2", "TLS"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            ranks.append(hosts.start(host, [sys.executable, str(rank), *words], text=True, env=around, **pipes))
        token = json.dumps({"token": bytes(Token.new()).hex()}) + "\n"
        for process in ranks:
            assert process.stdin is not None
            process.stdin.write(token)
            process.stdin.flush()
        assert ranks[0].stdout is not None
        ports = ranks[0].stdout.readline()
        said, _ = ranks[1].communicate(ports, timeout=60)
        assert ranks[0].wait(30) == ranks[1].returncode == 0
        assert len(said.splitlines()) == 2
