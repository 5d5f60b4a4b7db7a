"""What the two communicators promise beyond the contract: no copies where none are needed, and honest messages."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest

from tutti import _board
from tutti.comm.reduction import tree_sum_of
from tutti.errors import Aborted, RunError
from tutti.protocols import Communicator
from tutti.testing.communicator import Make, check_abort, check_stale_memory, on_ranks, part, shm_ranks, thread_ranks
from tutti.types import Array

BOTH = pytest.mark.parametrize("make_ranks", [thread_ranks, shm_ranks])


@functools.cache
def known_part(shard: int, length: int) -> Array:
    return part(shard, length, "float32")


@BOTH
@pytest.mark.parametrize("length", [10, 100_000])
def test_the_result_cannot_be_written_by_one_rank_for_all(make_ranks: Make, length: int) -> None:
    def body(comm: Communicator) -> None:
        total = comm.all_reduce({comm.rank: np.ones(length)}, 2)
        total += 1

    for error in on_ranks(make_ranks, 2, body):
        assert isinstance(error, ValueError)
        assert "read-only" in str(error)


@BOTH
def test_a_rank_that_holds_nothing_learns_the_size_from_the_others(make_ranks: Make) -> None:
    def body(comm: Communicator) -> float:
        total = 0.0
        for length in (5, 70_000, 5, 9):
            total += float(comm.all_reduce({0: np.ones(length, "f4")} if comm.rank == 1 else {}, 1).sum())
        return total

    assert on_ranks(make_ranks, 3, body) == [70_019.0] * 3


@BOTH
def test_slots_are_the_same_rows_every_time(make_ranks: Make) -> None:
    def body(comm: Communicator) -> bool:
        slots = comm.slots(4, 40_000, "f8")
        again = comm.slots(4, 40_000, np.float64)
        mine = range(comm.rank, 4, 2)
        for step in range(5):
            for s in mine:
                slots[s] = s + step
            total = comm.all_reduce({s: slots[s] for s in mine}, 4)
            if not (total == 6 + 4 * step).all():
                return False
        return slots.__array_interface__["data"] == again.__array_interface__["data"]

    assert on_ranks(make_ranks, 2, body) == [True, True]


@BOTH
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sum_into_arrays_of_ones_own_has_the_same_bits(make_ranks: Make, size: int) -> None:
    lengths = (0, 1, 1000, 262_144, 262_145, 1_000_003)

    def body(comm: Communicator) -> list[bytes]:
        sums = []
        for length in lengths:
            for n_shards in (1, 2, 5):
                mine = {s: known_part(s, length).copy() for s in range(comm.rank, n_shards, size)}
                out = mine.get(comm.rank, np.empty(length, np.float32))  # a part may be the target itself
                comm.all_reduce_into(mine, n_shards, out)  # type: ignore[attr-defined]
                sums.append(out.tobytes())
        return sums

    right = [
        tree_sum_of([known_part(s, length).copy() for s in range(n)], n).tobytes()
        for length in lengths
        for n in (1, 2, 5)
    ]
    assert on_ranks(make_ranks, size, body) == [right] * size


@BOTH
def test_a_sum_into_an_array_of_another_length_is_refused_by_all(make_ranks: Make) -> None:
    def body(comm: Communicator) -> None:
        out = np.ones(90_000 + comm.rank)
        comm.all_reduce_into({comm.rank: out}, 2, out)  # type: ignore[attr-defined]

    errors = [e for e in on_ranks(make_ranks, 2, body) if not isinstance(e, Aborted)]
    assert errors
    assert all(isinstance(e, RunError) and "all_reduce_into of 2 shards x 90000 float64" in str(e) for e in errors)


@BOTH
def test_a_wait_for_a_rank_that_waits_is_counted(make_ranks: Make) -> None:
    def body(comm: Communicator) -> float:
        board, began = comm._board, 0.0  # type: ignore[attr-defined]
        comm.barrier()
        if comm.rank == 1:
            while board.get(0, _board.ARRIVED) == board.get(1, _board.ARRIVED):
                time.sleep(0.001)
            began = time.perf_counter()
            time.sleep(0.01)  # the lateness itself
        late = time.perf_counter() - began
        comm.barrier()
        return late if comm.rank else comm.wait_seconds

    waited, late = on_ranks(make_ranks, 2, body)
    assert waited >= late


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("make_ranks", [pytest.param(thread_ranks, marks=pytest.mark.thorough), shm_ranks])
def test_who_waits_for_a_late_rank_burns_no_core(make_ranks: Make) -> None:
    def body(comm: Communicator) -> tuple[float, float]:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(1.0)  # the lateness itself
        began, burnt = time.perf_counter(), time.thread_time()
        comm.barrier()
        return time.perf_counter() - began, time.thread_time() - burnt

    (waited, burnt), _ = on_ranks(make_ranks, 2, body)
    assert waited > 0.9
    assert burnt < 0.02


@pytest.mark.thorough
@pytest.mark.alone
def test_an_abort_from_another_thread_wakes_who_sleeps_at_once() -> None:
    comms = list(shm_ranks(2))

    def body(comm: Communicator) -> float:
        if comm.rank == 1:
            board = comm._board  # type: ignore[attr-defined]
            while not board.get(0, _board.SLEEPING):
                time.sleep(0.001)
            began = time.perf_counter()
            comm.abort()
            return began
        with pytest.raises(Aborted):
            comm.barrier()
        return time.perf_counter()

    woken, began = on_ranks(lambda size: comms, 2, body)
    assert woken - began < 0.04, "it was the time-out that ended the sleep"


def test_a_system_without_a_futex_waits_by_short_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_board, "_futex", lambda: None)
    check_stale_memory(shm_ranks, 3)
    check_abort(shm_ranks, 3)


@BOTH
def test_the_message_says_what_each_rank_called(make_ranks: Make) -> None:
    def body(comm: Communicator) -> None:
        comm.all_reduce({comm.rank: np.zeros(10 + comm.rank)}, 2)

    errors = [e for e in on_ranks(make_ranks, 2, body) if not isinstance(e, Aborted)]
    assert errors
    for error in errors:
        assert isinstance(error, RunError)
        assert "2 shards x 10 float64" in str(error)
        assert "2 shards x 11 float64" in str(error)


@BOTH
def test_nothing_goes_on_after_a_disagreement(make_ranks: Make) -> None:
    def body(comm: Communicator) -> str:
        with pytest.raises(RunError):
            comm.all_reduce({0: np.zeros(3)}, 2)
        with pytest.raises(Aborted):
            comm.barrier()
        with pytest.raises(Aborted):
            comm.all_gather(b"")
        with pytest.raises(Aborted):
            comm.all_reduce({comm.rank: np.zeros(3)}, 2)
        return "stopped"

    assert on_ranks(make_ranks, 2, body) == ["stopped", "stopped"]
