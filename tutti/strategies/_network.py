"""A parameter server where ranks see no common memory: which program a rank runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutti.errors import PlanError
from tutti.protocols import Worker
from tutti.serving import Detaching, Serving
from tutti.strategies._client import Client
from tutti.strategies._dealt import dealt
from tutti.strategies._head import Head
from tutti.strategies._server import Server
from tutti.strategies._server_record import Facts
from tutti.strategies._talk import Copy
from tutti.types import Arrays


def over_network(
    worker: Worker, learner: Serving, servers: int, staleness: float, optimizer: Any, claim: bool, record: str | None
) -> Arrays:
    """Run the program of this rank's role; parameters as in `ParameterServer`."""
    calls, n_workers = worker.calls(), worker.size - servers
    if calls is None:
        raise PlanError("seats with roles need ranks that ask one another: transport='tcp' or engine=tutti.Hosts(n)")
    parts = [list(dealt(worker.n_shards, n_workers, r)) for r in range(n_workers)]
    claim = claim and worker.opens
    with worker.phase("read"):
        copy = Copy(worker, learner, servers, optimizer, n_workers)
    if worker.seat.role == "worker":
        return Client(worker, learner, calls, copy, parts, servers, staleness, record is not None).run()
    i = worker.seat.rank - n_workers
    if i == 0:
        facts = None
        if record is not None:
            assert isinstance(learner, Detaching)  # the plan has seen to it
            facts = Facts(Path(record), worker, learner, copy, parts, servers, optimizer)
        Head(worker, learner, calls, copy, parts, claim, staleness, facts).run()
    else:
        Server(worker, learner, calls, copy, i, n_workers, claim, record).run()
    return {}
