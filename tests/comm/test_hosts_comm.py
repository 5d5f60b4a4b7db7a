"""Several ranks on each of several hosts: the contract, the bits, and what crosses the line between the hosts."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tutti._arena import Arena, ShmLink
from tutti._board import Board
from tutti._frames import Channel
from tutti.comm import connect
from tutti.comm.reduction import tree_sum_of
from tutti.comm.tcp._hosts import HostsComm
from tutti.engines._wire import anonymous_memory
from tutti.protocols import Communicator
from tutti.testing.communicator import check_communicator, deals, on_ranks, part


class Host(ShmLink):
    """A link to the ranks of the same host in memory, and to the first ranks of the other hosts through sockets."""

    def __init__(self, rank: int, arena: Arena, boards: list[Board], home: int, hosts: list[list[int]]) -> None:
        super().__init__(arena, boards[home], rank, boards[home].size, "tcp")
        self.hosts, self.channels = hosts, dict[int, Channel]()
        self._boards = boards

    def peers(self, among: Sequence[int] | None = None) -> dict[int, Channel]:
        return {rank: channel for rank, channel in self.channels.items() if among is None or rank in among}

    def abort(self) -> None:
        for board in self._boards:  # what an engine does by messages
            board.abort()


def made(hosts: list[list[int]]) -> Sequence[Communicator]:
    size = sum(map(len, hosts))
    arenas: list[list[Arena]] = []
    for ranks in hosts:
        fd = anonymous_memory(1 << 40)
        arenas.append([Arena(os.dup(fd)) for _ in ranks])
        os.close(fd)
    boards = [[Board(arena.words(size), size) for arena in of_host] for of_host in arenas]
    for of_host in boards:
        of_host[0].clear()
    links: dict[int, Host] = {}
    for home, ranks in enumerate(hosts):
        for i, rank in enumerate(ranks):
            seen = [of_host[i if home == h else 0] for h, of_host in enumerate(boards)]
            links[rank] = Host(rank, arenas[home][i], seen, home, hosts)
    for one, other in itertools.combinations([ranks[0] for ranks in hosts], 2):
        near, far = socket.socketpair()
        links[one].channels[other] = Channel(near, f"rank {other}")
        links[other].channels[one] = Channel(far, f"rank {one}")
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(connect, [links[rank] for rank in range(size)]))


def pairs(size: int) -> Sequence[Communicator]:
    """Two ranks on each host, the last one alone if their number is odd."""
    return made([list(range(first, min(first + 2, size))) for first in range(0, size, 2)])


def scattered(size: int) -> Sequence[Communicator]:
    """Two hosts that take turns, one of them with a rank more."""
    return made([list(range(host, size, 2)) for host in range(min(2, size))])


@pytest.mark.thorough
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("make", [pairs, scattered])
def test_a_communicator_between_hosts_keeps_its_contract(make: object, size: int) -> None:
    check_communicator(make, sizes=(size,))  # type: ignore[arg-type]


def test_a_host_sends_what_a_single_rank_would() -> None:
    length, n_shards = 500_000, 8

    def body(comm: Communicator) -> tuple[bytes, int]:
        assert isinstance(comm, HostsComm)
        mine = {s: part(s, length, "float32") for s in deals(n_shards, 4)[1][comm.rank]}
        total = comm.all_reduce(mine, n_shards).tobytes()
        return total, comm._far.sent_bytes if comm._far is not None else 0

    found = on_ranks(pairs, 4, body)
    wanted = tree_sum_of([part(s, length, "float32") for s in range(n_shards)], n_shards).tobytes()
    assert [total for total, _ in found] == [wanted] * 4
    sent = [n for _, n in found]
    assert sent[1] == sent[3] == 0
    assert sent[0] + sent[2] <= 2 * 4 * length * 1.01  # half of a sum out and half of it back, for each of two hosts
