"""The engines of this library keep the contract that third parties' are held to."""

from __future__ import annotations

import pytest

from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.protocols import Engine
from tutti.testing import faults
from tutti.testing.engine import check_engine

pytestmark = pytest.mark.thorough
ENGINES = [
    (Threads(2, timeout_seconds=1.0), (*faults.IN_PROCESS,)),
    (Processes(2, timeout_seconds=1.0), (*faults.IN_PROCESS, "os_exit", "kill")),
]


@pytest.mark.parametrize("engine, strikes", ENGINES, ids=["threads", "processes"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_engine_keeps_its_contract(engine: Engine, strikes: tuple[faults.Fault, ...], size: int) -> None:
    check_engine(engine, sizes=(size,), strikes=strikes)
