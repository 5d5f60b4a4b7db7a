"""The communicators of this library keep the contract that third parties' are held to."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tutti.testing.communicator import Make, check_communicator, gloo_ranks, shm_ranks, tcp_ranks, thread_ranks

pytestmark = pytest.mark.thorough
GLOO = pytest.param(
    gloo_ranks, marks=pytest.mark.skipif(find_spec("torch") is None, reason='needs torch: pip install "tutti[torch]"')
)
MAKERS = [thread_ranks, shm_ranks, tcp_ranks, GLOO]


@pytest.mark.parametrize("make_ranks", MAKERS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_communicator_keeps_its_contract(make_ranks: Make, size: int) -> None:
    check_communicator(make_ranks, sizes=(size,))
