"""A link of a chosen rate and delay between two network namespaces; both exist as long as this process is fed.

usage: python _shaped_link.py NAME1 NAME2 RATE_MBIT DELAY_MS LOSS        needs root; ends when its standard input does

A line "only PORT" on standard input has it drop whatever neither comes from nor goes to that TCP port, "all" undoes it.
The kernels' packets (up to 64 KB each, because the devices offer segmentation) are read from one device, kept until
they would have passed the link, and written to the other.  Imports nothing of tutti: it is run as a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
from collections import deque
from time import perf_counter

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_INFO, _OFFLOAD_HEADER = 0x0001, 0x1000, 0x4000
_CHECKSUMS, _TSO4, _TSO6 = 1, 2, 4
_SET_TIMER_SLACK = 29
_QUEUE_BYTES = 4 << 20
_PACKET = 70_000
_HEAD, _TCP = 10, 6  # bytes that the device adds before a packet (struct virtio_net_hdr); number of the protocol


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def device(name: str, namespace: str, address: str) -> int:
    """Return the descriptor of a new device inside a namespace: what is written to it comes in there."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN | _NO_INFO | _OFFLOAD_HEADER))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _CHECKSUMS | _TSO4 | _TSO6)
    ip("link", "set", name, "netns", namespace)
    ip("-n", namespace, "addr", "add", f"{address}/24", "dev", name)
    ip("-n", namespace, "link", "set", name, "up", "mtu", "1500")
    ip("-n", namespace, "link", "set", "lo", "up")
    return fd


def ports(packet: bytes) -> tuple[int, int] | None:
    """Return source and target port of an IPv4 TCP packet; None for any other."""
    if packet[_HEAD] >> 4 != 4 or packet[_HEAD + 9] != _TCP:
        return None
    at = _HEAD + 4 * (packet[_HEAD] & 15)
    return int.from_bytes(packet[at : at + 2]), int.from_bytes(packet[at + 2 : at + 4])


class Way:
    """One direction: packets leave ``source`` and come to ``target`` after the link has carried them."""

    def __init__(self, source: int, target: int, bytes_per_second: float, delay_seconds: float, loss: float) -> None:
        self.source, self._target = source, target
        self._rate, self._delay, self._loss = bytes_per_second, delay_seconds, loss
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._n_bytes, self._free = 0, 0.0
        self.only: int | None = None

    def take(self) -> None:
        """Take what has been sent; what finds the queue full, or is unlucky, is lost."""
        for _ in range(16):
            try:
                packet = os.read(self.source, _PACKET)
            except BlockingIOError:
                return
            if self._n_bytes > _QUEUE_BYTES or (self._loss and random.random() < self._loss):
                continue
            if self.only is not None and self.only not in (ports(packet) or ()):
                continue
            self._free = max(perf_counter(), self._free) + len(packet) / self._rate
            self._under_way.append((self._free + self._delay, packet))
            self._n_bytes += len(packet)

    def deliver(self) -> float:
        """Deliver what has passed the link; return when the next packet will have, inf if there is none."""
        while self._under_way:
            when, packet = self._under_way[0]
            if when > perf_counter():
                return when
            self._under_way.popleft()
            self._n_bytes -= len(packet)
            with contextlib.suppress(OSError):
                os.write(self._target, packet)
        return float("inf")


def carry(ways: list[Way]) -> None:
    """Carry packets until standard input ends."""
    sources = [way.source for way in ways]
    while True:
        wait = min(way.deliver() for way in ways) - perf_counter()
        ready, _, _ = select.select([sys.stdin.fileno(), *sources], [], [], min(max(wait, 0.0), 1.0))
        if sys.stdin.fileno() in ready:
            said = os.read(sys.stdin.fileno(), 1 << 10).decode().split()
            if not said:
                return
            for way in ways:
                way.only = int(said[-1]) if said[-1] != "all" else None
            print("done", flush=True)
        for way in ways:
            if way.source in ready:
                way.take()


def main(first: str, second: str, rate_mbit: str, delay_ms: str, loss: str) -> None:
    ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)  # nanoseconds: packets are due to some microseconds
    made = []
    try:
        for name in (first, second):
            ip("netns", "add", name)
            made.append(name)
        here, there = device("tl0", first, "10.79.0.1"), device("tl1", second, "10.79.0.2")
        settings = float(rate_mbit) * 1e6 / 8, float(delay_ms) / 1e3, float(loss)
        print("up", flush=True)
        carry([Way(here, there, *settings), Way(there, here, *settings)])
    finally:
        for name in made:
            ip("netns", "del", name)


if __name__ == "__main__":
    main(*sys.argv[1:])
