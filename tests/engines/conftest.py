"""Callers and workers of `tutti.Hosts` on this machine, as a person would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tutti.engines.hosts import Hosts, shutdown

ROOT = Path(__file__).resolve().parents[2]


class Company:
    """An engine and the `tutti worker` processes that have been started for it."""

    def __init__(self, folder: Path) -> None:
        self.token_file = str(folder / "token")
        self.environment: dict[str, str] = {}
        self.workers: list[subprocess.Popen[str]] = []

    def engine(self, n: int, workers: Sequence[int] = (), **params: object) -> Hosts:
        """Return an engine that listens on loopback, after starting `tutti worker --workers k` for each k."""
        engine = Hosts(n, token_file=self.token_file, **{"timeout_seconds": 2.0, **params})  # type: ignore[arg-type]
        for k in workers:
            self.join(engine, k)
        return engine

    def join(self, engine: Hosts, k: int = 1, *more: str) -> subprocess.Popen[str]:
        """Start `tutti worker` with k processes."""
        _, *command = engine.open().split()
        worker = subprocess.Popen(
            [sys.executable, "-m", "tutti", *command, "--workers", str(k), "--wait", "5", *more],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        shutdown()
        for worker in self.workers:
            try:
                worker.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.communicate()
                raise


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    made = Company(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def company_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Hosts]]:
    """Three workers in two processes, for tests that leave them as they were."""
    made = Company(tmp_path_factory.mktemp("hosts"))
    made.engine(3, workers=(2, 1))
    yield made.engine
    made.close()
