"""The communicators of this library keep the contract that third parties' are held to."""

from __future__ import annotations

import pytest

from tutti.testing.communicator import Make, check_communicator, shm_ranks, thread_ranks

pytestmark = pytest.mark.thorough
MAKERS = [thread_ranks, shm_ranks]


@pytest.mark.parametrize("make_ranks", MAKERS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_communicator_keeps_its_contract(make_ranks: Make, size: int) -> None:
    check_communicator(make_ranks, sizes=(size,))
