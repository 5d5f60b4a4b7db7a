"""600 MB over `tutti.Hosts`, each way that arrays go: nobody is taken for dead because a large one is under way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engines.conftest import Company
from tutti.comm import connect
from tutti.protocols import Program, RankContext
from tutti.testing.engine import plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
N = 150_000_000  # numbers of 4 bytes


def summed(context: RankContext, n: int) -> list[float]:
    """Return the least and the largest number of a sum of one array (n,) of each rank, and its length."""
    comm, rank = connect(context.link), context.seat.rank
    total = comm.all_reduce({rank: np.full(n, rank + 1, np.float32)}, comm.size)
    found = [float(total.min()), float(total.max()), float(len(total))]
    comm.barrier()
    comm.close()
    return found


def echoed(context: RankContext, array: Any) -> Any:
    """Return the array twice as large, from the last rank alone."""
    return array * np.float32(2) if context.seat.rank == context.link.size - 1 else float(array[-1])


def test_a_sum_of_600_mb_goes_through(company: Company) -> None:
    engine = company.engine(2, workers=(1, 1), timeout_seconds=2.0)
    found = engine.launch(Program("tests.engines.test_large:summed", {"n": N}), plan(2)).results()
    assert found == [[3.0, 3.0, N]] * 2


def test_an_argument_and_a_result_of_600_mb_go_through(company: Company) -> None:
    engine = company.engine(2, workers=(1, 1), timeout_seconds=2.0)
    given = np.arange(N, dtype=np.float32)
    program = Program("tests.engines.test_large:echoed", {"array": given})
    first, second = engine.launch(program, plan(2)).results()
    assert first == float(given[-1])
    np.testing.assert_array_equal(second, given * np.float32(2))
