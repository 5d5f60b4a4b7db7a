"""`tutti.Hosts` with real `tutti worker` processes on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tests.engines.conftest import Company
from tutti._frames import Channel, PeerError, connect
from tutti._secure import Credentials, Token
from tutti.engines import _control as control
from tutti.engines._guest import version
from tutti.engines.hosts import Hosts
from tutti.errors import InputError, ParameterError, RankLost, RunError
from tutti.protocols import Engine, Program
from tutti.testing import faults
from tutti.testing.engine import check_engine, check_fault, check_good_run, child_pids, plan
from tutti.types import Fault


def test_the_engine_is_inert_and_checks_its_parameters(tmp_path: Path) -> None:
    engine = Hosts(3, local=1, token_file=str(tmp_path / "token"))
    assert isinstance(engine, Engine)
    assert type(engine)(**engine.get_params()) == engine
    assert [place.host == socket.gethostname() for place in engine.places()] == [True, False, False]
    assert not list(tmp_path.iterdir())
    for wrong in (
        {"n": None},
        {"n": 0},
        {"local": 4},
        {"listen": "nowhere"},
        {"timeout_seconds": 0.1},
        {"token_file": ""},
    ):
        with pytest.raises(ParameterError):
            Hosts(**{"n": 3, **wrong})  # type: ignore[arg-type]


@pytest.mark.thorough
@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_engine_of_several_hosts_keeps_the_contract(company: Company, size: int) -> None:
    engine = company.engine(3, workers=(2, 1))
    check_engine(engine, sizes=(size,), strikes=(*faults.IN_PROCESS, "os_exit", "kill"))


@pytest.mark.thorough
@pytest.mark.parametrize("moment", faults.MOMENTS)
def test_a_frozen_rank_is_found_in_time(company: Company, moment: faults.Moment) -> None:
    caught = check_fault(company.engine(3, workers=(2, 1)), 3, "freeze", fault_rank=2, moment=moment)
    assert isinstance(caught, RankLost)
    with pytest.raises(ProcessLookupError):
        os.kill(caught.pid, 0)


def test_workers_serve_one_run_after_the_other_and_leave_with_the_caller(company: Company) -> None:
    engine = company.engine(2, workers=(1, 1))
    pids = [{f["pid"] for f in engine.launch(Program(faults.ECHO), plan(2)).results()} for _ in range(3)]
    assert pids[0] == pids[1] == pids[2]
    company.close()
    assert [worker.returncode for worker in company.workers] == [0, 0]


def test_the_caller_starts_its_local_workers_itself_and_takes_them_with_it(company: Company) -> None:
    before = set(child_pids())
    engine = company.engine(2, local=2)
    check_good_run(engine, 2)
    check_good_run(engine, 2)
    assert len(set(child_pids()) - before) == 1
    company.close()
    assert set(child_pids()) <= before


def test_a_worker_with_once_leaves_after_a_run(company: Company) -> None:
    engine = company.engine(1)
    worker = company.join(engine, 1, "--once")
    check_good_run(engine, 1)
    assert worker.wait(10) == 0


def test_the_token_file_is_for_its_owner_alone(company: Company) -> None:
    engine = company.engine(1)
    engine.open()
    assert stat.S_IMODE(os.stat(engine.token_file).st_mode) == 0o600
    os.chmod(engine.token_file, 0o644)
    worker = company.join(engine)
    _, told = worker.communicate(timeout=20)
    assert worker.returncode == 2
    assert "chmod 600" in told


def test_a_worker_with_another_token_is_told_and_the_run_goes_on(company: Company, tmp_path: Path) -> None:
    engine = company.engine(1)
    Token.new().write(tmp_path / "other")
    command = engine.open().replace(engine.token_file, str(tmp_path / "other"))
    company.join(engine)
    done = subprocess.run(
        [sys.executable, "-m", "tutti", *command.split()[1:]], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "is not the caller of this token file" in done.stderr
    check_good_run(engine, 1)


def address(engine: Hosts) -> tuple[str, int]:
    host, port = engine.open().split()[3].rsplit(":", 1)
    return host, int(port)


def test_strangers_and_the_silent_do_not_disturb(company: Company, caplog: pytest.LogCaptureFixture) -> None:
    engine = company.engine(1, workers=(1,))
    credentials = Credentials(Token.read(engine.token_file))
    with socket.create_connection(address(engine)) as stranger:
        silent = connect(address(engine), credentials, seconds=5.0)
        babbler = connect(address(engine), credentials, seconds=5.0)
        babbler.send(control.SEATS, b"\xff" * 100, seconds=5.0)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        check_good_run(engine, 1)
        until_closed(babbler)
        silent.close()
    assert "was refused" in caplog.text


def until_closed(channel: Channel) -> None:
    """Read on until the other end has closed the connection."""
    with contextlib.suppress(PeerError):
        for _ in range(1000):
            channel.receive(seconds=5.0)
        raise AssertionError("the connection stays open")


def test_another_version_is_refused_with_the_reason(company: Company) -> None:
    engine = company.engine(1)
    channel = connect(address(engine), Credentials(Token.read(engine_token(engine))), seconds=5.0)
    line = control.Line(channel, 10.0)
    line.post(control.HELLO, {"version": "0.0.1/0", "host": "elsewhere", "pid": 1, "workers": 1})
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [m for m in line.turn() if m.kind == control.REFUSED]
        if found:
            break
    assert f"it has version 0.0.1/0 of tutti, the caller {version()}" in control.read(found[0])["reason"]
    channel.close()


def engine_token(engine: Hosts) -> str:
    engine.open()
    return engine.token_file


@pytest.mark.thorough
def test_too_few_workers_end_in_an_error_that_says_what_to_run(company: Company) -> None:
    engine = company.engine(3, workers=(1,), start_timeout_seconds=2.0)
    with pytest.raises(RunError, match=r"2 of 3 workers have not joined .* tutti worker --join 127"):
        engine.launch(Program(faults.ECHO), plan(3)).results()


@pytest.mark.alone
def test_a_worker_waits_for_a_caller_so_long_and_no_longer(tmp_path: Path) -> None:
    from tutti.cli.main import main

    Token.new().write(tmp_path / "token")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    assert main(["worker", "--join", f"127.0.0.1:{port}", "--token-file", str(tmp_path / "token"), "--wait", "1"]) == 1
    assert time.monotonic() - began < 5.0


def worker_of(engine: Hosts, company: Company, rank: int, found: list[Any]) -> subprocess.Popen[str]:
    """Return the `tutti worker` whose child a rank is."""
    parent = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{found[rank]['pid']}/status").read_text())[1])  # type: ignore[index]
    return next(worker for worker in company.workers if worker.pid == parent)


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.thorough)])
def test_a_host_that_dies_or_freezes_is_named_and_its_ranks_end(company: Company, number: signal.Signals) -> None:
    engine = company.engine(2, workers=(1, 1))
    found = engine.launch(Program(faults.ECHO), plan(2)).results()
    victim = worker_of(engine, company, 1, found)
    run = engine.launch(Program(faults.ROUNDS, {"n_steps": 10**9, "announce": True}), plan(2))
    struck: list[float] = []

    def watch(event: object) -> None:
        if not struck:
            struck.append(time.monotonic())
            os.kill(victim.pid, number)

    with pytest.raises(RankLost) as caught:
        run.results(watch)
    assert caught.value.rank == 1
    limit = 2.0 if number == signal.SIGKILL else engine.timeout_seconds + 1.0
    assert time.monotonic() - struck[0] < limit
    os.kill(victim.pid, signal.SIGKILL)
    until_gone(found[1]["pid"])


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fault, word", [("kill", "SIGKILL"), pytest.param("freeze", "no sign of life", marks=pytest.mark.thorough)]
)
def test_a_tolerant_run_goes_on_without_a_rank(company: Company, fault: str, word: str) -> None:
    engine = company.engine(3, workers=(2, 1))
    seen: list[Fault] = []
    wanted = dataclasses.replace(plan(3), tolerant=True)
    found = engine.launch(Program(faults.OUTLIVE, {"fault": fault}), wanted).results(seen.append)
    assert [f and f["lost"] for f in found] == [[1], None, [1]]
    assert [(event.rank, word in event.reason) for event in seen] == [(1, True)]
    check_good_run(engine, 2)


@pytest.mark.thorough
def test_a_tolerant_run_goes_on_without_a_whole_host(company: Company) -> None:
    engine = company.engine(3, workers=(2, 1))
    found = engine.launch(Program(faults.ECHO), plan(3)).results()
    victim = worker_of(engine, company, 1, found)
    ranks = tuple(f["rank"] for f in found if worker_of(engine, company, f["rank"], found) is victim)
    wanted = dataclasses.replace(plan(3), tolerant=True)
    run = engine.launch(Program("tests.engines.test_hosts:outlive_told", {"ranks": ranks}), wanted)
    seen: list[Any] = []

    def watch(event: Any) -> None:
        seen.append(event)
        if not isinstance(event, Fault):
            victim.kill()

    found = run.results(watch)
    assert [rank for rank in range(3) if found[rank] is None] == list(ranks)
    assert sorted(e.rank for e in seen if isinstance(e, Fault)) == list(ranks)


def outlive_told(context: Any, ranks: tuple[int, ...]) -> dict[str, Any]:
    """Say that this rank is there, then go on until ``ranks`` are lost."""
    from tutti.types import Started

    if context.seat.rank == 0:
        context.emit(Started(3, 0.0))
    return faults.outlive(context, "leave", ranks, lives=10**9)


def test_code_is_refused_before_anything_is_sent(company: Company) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from tutti._carried import Carried

    engine = company.engine(1)
    with pytest.raises(InputError, match="is not sent to other hosts"):
        engine.launch(Program(faults.ECHO, {"deep": [{"x": (Carried(np.zeros(3, np.uint8)),)}]}), plan(1))


def test_ctrl_c_ends_a_worker(company: Company) -> None:
    engine = company.engine(1)
    worker = company.join(engine)
    check_good_run(engine, 1)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 130


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ["AllReduce", pytest.param("CoCoA", marks=pytest.mark.thorough)])
def test_a_fit_has_the_bits_of_processes(company: Company, strategy: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 20))
    y = (x @ rng.standard_normal(20) > 0).astype(int)
    made = getattr(tutti, strategy)()
    wanted = tutti.LogisticRegression(strategy=made, engine=tutti.Processes(2)).fit(x, y)
    for n, workers in ((2, (1, 1)), (3, (1,))):
        engine = company.engine(n, workers=workers, timeout_seconds=10.0)
        found = tutti.LogisticRegression(strategy=made, engine=engine).fit(x, y)
        assert found.report_.sha256 == wanted.report_.sha256
        assert len(found.report_.ranks) == n
