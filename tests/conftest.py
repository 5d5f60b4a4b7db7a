"""Every test leaves the process as it found it: threads, children, shared memory, environment, signal handlers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tutti.engines.processes import shutdown, worker_pids
from tutti.testing.engine import Leftovers, child_pids

settings.register_profile(
    "tutti", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tutti")  # a test does not depend on chance, nor on how busy the machine is

_SERVICES = (
    "fsspecIO",
    "pytest_timeout",
    "Thread-monitor",
    "handler of signal 14",
    "variable TORCHINDUCTOR_CACHE_DIR",
    "variable KMP_",
)
"""Threads that third parties start once per process, variables that torch and its OpenMP set when they are first asked
for, and the alarm that pytest-timeout keeps set after a failure."""


def pytest_configure(config: pytest.Config) -> None:
    """Each process of `pytest -n` but the first compiles into a cache of its own.

    Two processes that save different signatures of one kernel at the same time overwrite each other in numba's cache.
    """
    name, cache = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), getattr(config, "cache", None)
    if name != "gw0" and cache is not None:
        os.environ["NUMBA_CACHE_DIR"] = str(cache.mkdir(f"numba-{name}"))


@pytest.fixture(scope="session", autouse=True)
def ends_every_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The session has a temporary folder of its own, so that another one on this machine is not blamed on it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("temporary"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
    pids = set(worker_pids())
    shutdown()
    assert not worker_pids(), f"workers are still busy: {worker_pids()}"
    assert not pids & set(child_pids()), "worker processes outlived shutdown()"


@pytest.fixture(autouse=True)
def leaves_nothing_behind(ends_every_worker: None) -> Iterator[None]:
    before = Leftovers.now()
    yield
    left = Leftovers.now().new_since(before)
    left = [what for what in left if not any(service in what for service in _SERVICES)]
    assert not left, f"the test left behind: {', '.join(left)}"
