"""Process groups of torch as transport: the bits of shared memory, columns in advance, and faults through an engine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tutti.comm.reduction import tree_sum_of
from tutti.engines.processes import Processes
from tutti.errors import ParameterError, PlanError
from tutti.protocols import Communicator, Program
from tutti.testing import faults
from tutti.testing.communicator import check_sums, deals, gloo_ranks, on_ranks, part
from tutti.testing.engine import check_fault, plan

torch = pytest.importorskip("torch", reason='needs torch: pip install "tutti[torch]"')
GLOO = Processes(2, transport="gloo", timeout_seconds=2.0)


@pytest.mark.thorough
def test_columns_that_travel_in_advance_give_the_bits_of_a_plain_call() -> None:
    length, cuts = 1_200_000, (1_200_000, 1_199_999, 600_000, 599_000, 0)  # as a backward pass: the last ones first

    def body(comm: Communicator) -> tuple[bytes, bytes]:
        mine = {s: part(s, length, "float32") for s in deals(5, 3)[0][comm.rank]}
        plain = comm.all_reduce(mine, 5).tobytes()
        slots = comm.slots(5, length, "float32")
        total = comm.begin({s: slots[s] for s in mine}, 5)  # type: ignore[attr-defined]
        for stop, start in itertools.pairwise(cuts):
            for s in mine:
                slots[s, start:stop] = mine[s][start:stop]
            total.ready(start, stop)
        return plain, total.finish().tobytes()

    wanted = tree_sum_of([part(s, length, "float32") for s in range(5)], 5).tobytes()
    assert on_ranks(gloo_ranks, 3, body) == [(wanted, wanted)] * 3


def test_a_sum_that_is_not_complete_is_refused() -> None:
    def body(comm: Communicator) -> None:
        total = comm.begin({comm.rank: np.ones(100_000)}, 2)  # type: ignore[attr-defined]
        total.ready(0, 50_000)
        with pytest.raises(ValueError, match="not within"):
            total.ready(50_000, 100_001)
        with pytest.raises(ValueError, match="has not been finished"):
            comm.begin({comm.rank: np.ones(3)}, 2)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="50000 columns of 100000"):
            total.finish()

    assert on_ranks(gloo_ranks, 2, body) == [None, None]


def test_more_shards_than_bits_in_a_word() -> None:
    def body(comm: Communicator) -> bytes:
        mine = {s: part(s, 1000, "float64") for s in range(comm.rank, 200, 2)}
        return comm.all_reduce(mine, 200).tobytes()

    wanted = tree_sum_of([part(s, 1000, "float64") for s in range(200)], 200).tobytes()
    assert on_ranks(gloo_ranks, 2, body) == [wanted] * 2


@pytest.mark.thorough
def test_sums_of_four_ranks() -> None:
    check_sums(gloo_ranks, 4)


@pytest.mark.thorough
def test_an_engine_over_gloo_has_the_bits_of_shared_memory() -> None:
    (own, *_) = Processes(1).launch(Program(faults.ROUNDS, {"length": 50_000}), plan(1)).results()
    for found in GLOO.launch(Program(faults.ROUNDS, {"length": 50_000}), plan(2)).results():
        assert [total.tobytes() for total in found] == [total.tobytes() for total in own]


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["raise", "leave", "os_exit", "kill", "freeze"])
def test_a_fault_over_gloo_ends_in_one_exception_in_time(fault: faults.Fault) -> None:
    check_fault(GLOO, 2, fault)
    check_fault(GLOO, 3, fault, fault_rank=1, moment="others_wait")


@pytest.mark.thorough
def test_nccl_without_enough_gpus_is_refused_with_the_reason() -> None:
    if torch.cuda.device_count() >= 9:
        pytest.skip("this machine has a GPU for each of 9 ranks")
    with pytest.raises(PlanError, match='transport="nccl" needs a GPU for each of the 9 ranks'):
        Processes(9, transport="nccl").launch(Program(faults.ROUNDS), plan(9, 9)).results()


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(ParameterError, match="shm, tcp, gloo, nccl"):
        Processes(2, transport="mpi")
