"""Sockets as transport: the bits of shared memory, columns in advance, faults through an engine, no secret shown."""

from __future__ import annotations

import fcntl
import itertools
import select
import struct
import termios
import time

import numpy as np
import pytest

import tutti
from tutti.comm.reduction import tree_sum_of
from tutti.engines.processes import Processes
from tutti.protocols import Communicator, Program
from tutti.testing import faults
from tutti.testing.communicator import check_sums, deals, on_ranks, part, tcp_ranks
from tutti.testing.engine import check_fault, plan

TCP = Processes(2, transport="tcp", timeout_seconds=2.0)
ROW = np.arange(20_000).astype(np.uint8)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [2, 3, 5])
def test_columns_that_travel_in_advance_give_the_bits_of_a_plain_call(size: int) -> None:
    length, cuts = 3_000_000, (3_000_000, 2_999_999, 1_500_000, 1_499_000, 0)  # as a backward pass: the last ones first

    def body(comm: Communicator) -> tuple[bytes, bytes]:
        mine = {s: part(s, length, "float32") for s in deals(5, size)[0][comm.rank]}
        plain = comm.all_reduce(mine, 5).tobytes()
        slots = comm.slots(5, length, "float32")
        total = comm.begin({s: slots[s] for s in mine}, 5)  # type: ignore[attr-defined]
        for stop, start in itertools.pairwise(cuts):
            for s in mine:
                slots[s, start:stop] = mine[s][start:stop]
            total.ready(start, stop)
        return plain, total.finish().tobytes()

    wanted = tree_sum_of([part(s, length, "float32") for s in range(5)], 5).tobytes()
    assert on_ranks(tcp_ranks, size, body) == [(wanted, wanted)] * size


def test_more_shards_than_bits_in_a_word() -> None:
    def body(comm: Communicator) -> bytes:
        mine = {s: part(s, 1000, "float64") for s in range(comm.rank, 200, 2)}
        return comm.all_reduce(mine, 200).tobytes()

    wanted = tree_sum_of([part(s, 1000, "float64") for s in range(200)], 200).tobytes()
    assert on_ranks(tcp_ranks, 2, body) == [wanted] * 2


@pytest.mark.thorough
@pytest.mark.parametrize("size", [4, 8])
def test_sums_of_more_ranks(size: int) -> None:
    check_sums(tcp_ranks, size)


@pytest.mark.thorough
def test_an_engine_over_tcp_has_the_bits_of_shared_memory() -> None:
    program = Program(faults.ROUNDS, {"length": 50_000})
    (own, *_) = Processes(1).launch(program, plan(1)).results()
    for n in (1, 2, 3, 5, 8):
        for found in Processes(n, transport="tcp").launch(program, plan(n)).results():
            assert [total.tobytes() for total in found] == [total.tobytes() for total in own]


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["raise", "leave", "os_exit", "kill", "freeze"])
def test_a_fault_over_tcp_ends_in_one_exception_in_time(fault: faults.Fault) -> None:
    check_fault(TCP, 2, fault)
    check_fault(TCP, 3, fault, fault_rank=1, moment="others_wait")


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["raise", "kill", "freeze"])
def test_a_fault_before_the_ranks_are_connected_ends_in_one_exception_in_time(fault: faults.Fault) -> None:
    for rank in (0, 1, 2):
        check_fault(TCP, 3, fault, fault_rank=rank, moment="before")


@pytest.mark.thorough
@pytest.mark.parametrize("n_shards, rows", [(8, 1003), (3, 1003), (8, 9)], ids=["ragged", "few shards", "few rows"])
def test_a_model_over_tcp_has_the_bits_of_shared_memory(n_shards: int, rows: int) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, 6))
    y = (x @ random.standard_normal(6) > 0).astype(int)

    def digest(engine: tutti.Processes) -> str:
        model = tutti.LogisticRegression(strategy=tutti.AllReduce(), engine=engine, n_shards=n_shards)
        return str(model.fit(x, y).report_.sha256)

    one = digest(tutti.Processes(1))
    assert [digest(tutti.Processes(n, transport="tcp")) for n in (1, 2, 3)] == [one] * 3


def arrived(comm: Communicator, rank: int, seconds: float = 20.0) -> int:
    """Return how many bytes of another rank wait in the system, when they are as many as a row has or time is up."""
    sock, n, deadline = comm._pump._peers[rank].channel.sock, -1, time.monotonic() + seconds  # type: ignore[attr-defined]
    while time.monotonic() < deadline and n < ROW.nbytes:
        select.select([sock], [], [], 0.01)  # lets the other rank work
        n = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    return n


@pytest.mark.parametrize("call", ["share", "all_gather", "all_reduce"])
def test_what_a_rank_gives_sets_out_before_the_others_say_anything(call: str) -> None:
    """So a call takes one trip over the link, not two or three."""

    def body(comm: Communicator) -> bytes:
        gives = {
            "share": lambda: comm.share({comm.rank: ROW}, 2)[0].tobytes(),
            "all_gather": lambda: comm.all_gather(ROW.tobytes())[0],
            "all_reduce": lambda: comm.all_reduce({comm.rank: np.ones(100_000, np.float32)}, 2).tobytes(),
        }[call]
        gives()  # the first sum waits to learn who holds what
        if comm.rank:
            assert arrived(comm, 0) >= ROW.nbytes
        return gives()

    found = on_ranks(tcp_ranks, 2, body)
    wanted = np.full(100_000, 2, np.float32).tobytes() if call == "all_reduce" else ROW.tobytes()
    assert found == [wanted] * 2


@pytest.mark.thorough
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("length", [100, 20_000, 700_000])
def test_shards_may_move_between_calls(size: int, length: int) -> None:
    """What is received follows what was said in this call, whoever held which shards in the one before."""
    everything = {s: part(s, length, "float32") for s in range(5)}
    ways = [[[0, 1, 2], [3, 4], []], [[0, 2, 4], [1, 3], []], [[], [0, 1, 2, 3, 4], []], [[0, 1], [2, 3], [4]]]
    if size == 2:
        ways[-1] = [[4], [0, 1, 2, 3], []]

    def body(comm: Communicator) -> list[bytes]:
        found = []
        for way in [ways[0], ways[0], *ways, *ways]:
            mine = {s: everything[s] for s in way[comm.rank]}
            total = comm.begin(mine, 5)  # type: ignore[attr-defined]
            total.ready(length // 2, length)
            assert comm.all_gather(bytes([comm.rank])) == [bytes([r]) for r in range(size)]
            total.ready(0, length // 2)
            found.append(total.finish().tobytes())
            found += [row.tobytes() for row in comm.share(mine, 5)]
        return found

    rows = [everything[s].tobytes() for s in range(5)]
    wanted = [tree_sum_of(list(everything.values()), 5).tobytes(), *rows] * 10
    assert on_ranks(tcp_ranks, size, body) == [wanted] * size


def test_two_ranks_send_each_number_once() -> None:
    def body(comm: Communicator) -> int:
        mine, before = {comm.rank: np.ones(100_000)}, comm.sent_bytes
        comm.all_reduce(mine, 2)
        return comm.sent_bytes - before

    assert on_ranks(tcp_ranks, 2, body) == [800_000] * 2
