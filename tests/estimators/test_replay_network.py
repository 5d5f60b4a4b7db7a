"""Recorded runs of nets over sockets: one process repeats them to the same bits."""

from __future__ import annotations

import math
import os

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import MLP  # noqa: E402
from tests.estimators.test_replay import ADAM, MOMENTUM, check, recorded, replayed  # noqa: E402
from tests.estimators.test_served import Dying  # noqa: E402
from tutti.engines.hosts import Hosts  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.errors import PlanError  # noqa: E402

pytestmark = pytest.mark.timeout(180)


def tcp(n):
    return Processes(n, transport="tcp")


@pytest.mark.thorough
@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("settings", [MOMENTUM, ADAM], ids=["momentum", "adam"])
def test_one_process_repeats_what_sockets_did(settings, workers, servers, tmp_path):
    check(tmp_path, tcp(workers), staleness=math.inf, servers=servers, **settings)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "params",
    [{"validation": 0.2, "patience": 1, "epochs": 12, "lr": 0.05}, {"server": {"type": "Adam", "lr": 0.01}}],
    ids=["early stop", "adam of the server"],
)
def test_all_that_moves_a_net_is_repeated(params, tmp_path):
    check(tmp_path, tcp(2), MLP, staleness=1, servers=2, **params)


@pytest.mark.thorough
def test_a_run_that_lost_a_worker_is_repeated(tmp_path):
    own = {"module__here": os.getpid(), "module__note": str(tmp_path / "note"), "validation": 0.1, "epochs": 5}
    with pytest.warns(RuntimeWarning, match="was lost"):
        served = recorded(tmp_path / "run", tcp(3), Dying, staleness=1, servers=2, **own)
    assert replayed(tmp_path / "run", Dying, **own).report_.sha256 == served.report_.sha256


def test_hosts_are_refused_before_the_start(tmp_path):
    with pytest.raises(PlanError, match="record needs servers on this host"):
        recorded(tmp_path, Hosts(2, local=2, token_file=str(tmp_path / "token")), staleness=1)
    assert tutti.ParameterServer(staleness=1, record=str(tmp_path)).serves
