"""One of two ranks on two hosts: all_reduce over TLS, plain sockets and gloo in turn.  Called by link.py.

usage: python benchmarks/_link.py RANK ADDRESS DEVICE N_BYTES REPEATS SYSTEM...

Reads the token and the ports as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np

from tutti._board import Board
from tutti._frames import Channel, Door, connect, listen
from tutti._secure import Credentials, Token
from tutti.comm import connect as communicator

SECONDS = 60.0


@dataclass
class TwoHostLink:
    """A `tutti.comm.tcp.PeerLink` of two ranks."""

    rank: int
    channel: Channel
    size: int = 2
    transport: str = "tcp"

    def __post_init__(self) -> None:
        self.board = Board(memoryview(bytearray(8 * Board.n_words(2))).cast("q"), 2)
        self.board.clear()

    def peers(self, among: Any = None) -> dict[int, Channel]:
        return {1 - self.rank: self.channel}

    def abort(self) -> None:
        self.board.abort()

    def allocate(self, n_bytes: int) -> Any:
        raise NotImplementedError("the hosts share no memory")

    def lock(self) -> Any:
        raise NotImplementedError("the hosts share no memory")


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def channels(rank: int, address: str, credentials: Credentials) -> tuple[Channel, Channel]:
    """Return a connection with TLS and one without, which the library makes on loopback alone."""
    if rank == 0:
        door = Door(listen(address, credentials=credentials), credentials)
        with contextlib.closing(door), socket.create_server((address, 0)) as plain:
            say(secure=door.address[1], plain=plain.getsockname()[1])
            (secure,) = door.admit(SECONDS)
            return secure, Channel(plain.accept()[0], "rank 1")
    ports = json.loads(sys.stdin.readline())
    secure = connect((address, ports["secure"]), credentials, seconds=SECONDS)
    return secure, Channel(socket.create_connection((address, ports["plain"])), "rank 0")


def gloo(rank: int, address: str) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    import torch.distributed as dist

    if rank == 0:
        store = dist.TCPStore(address, 0, 2, True, wait_for_workers=False)
        say(store=store.port)
    else:
        store = dist.TCPStore(address, json.loads(sys.stdin.readline())["store"], 2, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)

    def reduce(array: Any) -> Any:
        import torch

        dist.all_reduce(torch.from_numpy(array))
        return array

    return reduce, dist.barrier


def main(rank: int, address: str, device: str, n_bytes: int, repeats: int, wanted: list[str]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = device
    token = Token(bytes.fromhex(json.loads(sys.stdin.readline())["token"]))
    secure, plain = (communicator(TwoHostLink(rank, c)) for c in channels(rank, address, Credentials(token)))
    systems: dict[str, tuple[Callable[[Any], Any], Callable[[], None]]] = {
        name: (lambda mine, comm=comm: comm.all_reduce({rank: mine}, 2), comm.barrier)  # type: ignore[misc]
        for name, comm in (("TLS", secure), ("plain", plain))
        if name in wanted
    }
    if "gloo" in wanted:
        systems["gloo"] = gloo(rank, address)
    mine = np.empty(n_bytes // 4, np.float32)
    for turn in range(repeats + 2):
        for name, (reduce, barrier) in systems.items():
            mine[:] = rank + 1
            barrier()
            began, burnt = perf_counter(), process_time()
            total = reduce(mine)
            seconds, burnt = perf_counter() - began, process_time() - burnt
            assert total[0] == total[-1] == 3.0, "a wrong sum"
            if turn >= 2:
                say(system=name, ms=seconds * 1e3, burnt=burnt * 1e3)
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
