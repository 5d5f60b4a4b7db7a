"""Two hosts on one machine: network namespaces joined by a link of a chosen rate and delay.

with two_hosts(rate_mbit=100, delay_ms=20) as hosts:
    server = hosts.start(0, [sys.executable, "serve.py", hosts.addresses[0]])
    client = hosts.start(1, [sys.executable, "fetch.py", hosts.addresses[0]])
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ADDRESSES = ("10.79.0.1", "10.79.0.2")
DEVICES = ("tl0", "tl1")
_RELAY = Path(__file__).with_name("_shaped_link.py")
_END_SECONDS = 5.0
_numbers = itertools.count()


def why_not() -> str | None:
    """Return why this machine cannot play two hosts; None if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a part of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (package iproute2)"
    if not os.path.exists("/dev/net/tun"):
        return "the link needs /dev/net/tun"
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return None if done.returncode == 0 else f"ip netns fails: {done.stderr.decode().strip()}"


class TwoHosts:
    """Where processes are started; see `two_hosts`."""

    addresses, devices = ADDRESSES, DEVICES

    def __init__(self, names: tuple[str, str], relay: subprocess.Popen[bytes]) -> None:
        self.names, self._relay = names, relay
        self._started: list[subprocess.Popen[Any]] = []

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """Return the command that runs ``command`` on a host, 0 or 1."""
        return ["ip", "netns", "exec", self.names[host], *command]

    def start(self, host: int, command: Sequence[str], **settings: Any) -> subprocess.Popen[Any]:
        """Start a process on a host, 0 or 1, as `subprocess.Popen` does; it is killed when the hosts go."""
        process = subprocess.Popen(self.command(host, command), **settings)
        self._started.append(process)
        return process

    def cut(self, host: int) -> None:
        """Cut a host off: nothing leaves it or comes to it until `join`."""
        self._set(host, "down")

    def join(self, host: int) -> None:
        """Undo `cut`."""
        self._set(host, "up")

    def only(self, port: int | None) -> None:
        """Drop, from now on and both ways, what does not come from or go to a TCP port; None: drop nothing."""
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.write(b"all\n" if port is None else b"only %d\n" % port)
        self._relay.stdin.flush()
        self._relay.stdout.readline()

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()

    def _set(self, host: int, state: str) -> None:
        subprocess.run(["ip", "-n", self.names[host], "link", "set", self.devices[host], state], check=True)


@contextlib.contextmanager
def two_hosts(*, rate_mbit: float, delay_ms: float, loss: float = 0.0) -> Iterator[TwoHosts]:
    """Make two hosts with the addresses ``TwoHosts.addresses``, and take them away again whatever happens.

    Parameters
    ----------
    rate_mbit : million bits per second, in each direction.
    delay_ms : how long a packet is under way, besides the time it takes to send.
    loss : share of the packets (up to 64 KB each) that are lost.
    """
    number = f"{os.getpid()}-{next(_numbers)}"
    names = (f"tutti-{number}-a", f"tutti-{number}-b")
    words = [*names, str(rate_mbit), str(delay_ms), str(loss)]
    relay = subprocess.Popen([sys.executable, str(_RELAY), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert relay.stdin is not None
    assert relay.stdout is not None
    hosts = TwoHosts(names, relay)
    try:
        if relay.stdout.readline() != b"up\n":
            raise OSError("the link between two network namespaces could not be made; its error is on standard error")
        yield hosts
    finally:
        hosts.end()
        relay.stdin.close()  # it ends, and takes the namespaces with it, also if this process is killed
        try:
            relay.wait(_END_SECONDS)
        finally:
            relay.kill()
            relay.wait()
            relay.stdout.close()
