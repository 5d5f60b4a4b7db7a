"""Real scripts: no main guard, a piped REPL, Ctrl-C, a killed caller, a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough
HEAD = """
import os, sys
from tutti.engines.processes import Processes, worker_pids
from tutti.engines.threads import Threads
from tutti.protocols import Program
from tutti.testing import faults
from tutti.testing.engine import plan
def sums(engine, **arguments):
    return engine.launch(Program(faults.ROUNDS, arguments), plan(2)).results()
"""
FITS = HEAD + "print('same', sums(Processes(2))[1][3].tobytes() == sums(Threads(2))[0][3].tobytes(), flush=True)\n"
HANGS = HEAD + (
    "sums(ENGINE)\n"
    "print(os.getpid(), *worker_pids(), flush=True)\n"
    "try:\n    sums(ENGINE, n_steps=10**7)\n"
    "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    "print('then', len(sums(ENGINE)), flush=True)\n"
)


def start(*arguments: str, stdin: str | None = None, **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
    return process


def until(met: Callable[[], bool], seconds: float) -> bool:
    """Look again and again until ``met()``; False if that takes longer than ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if met():
            return True
        os.sched_yield()
    return False


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # ended; its new parent has not looked yet


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "fit.py"
    script.write_text(FITS)
    out, err = start(str(script)).communicate(timeout=60)
    assert (out, err) == ("same True\n", "")


@pytest.mark.parametrize("arguments", [["-i"], ["-"]], ids=["interactive", "piped"])
def test_a_session_at_the_prompt_works(arguments: list[str]) -> None:
    source = FITS.replace("plan(2)).results()\n", "plan(2)).results()\n\n")
    process = start(*arguments, stdin=source + "print('next', 1)\n")
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == ["same True", "next 1"]


def test_a_module_beside_the_script_is_found_by_the_workers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def program(context, x):\n    return x + context.seat.rank\n")
    script = tmp_path / "fit.py"
    script.write_text(
        HEAD + "print(Processes(2).launch(Program('mine:program', {'x': 5}), plan(2)).results(), flush=True)\n"
    )
    out, err = start(str(script), cwd="/").communicate(timeout=60)
    assert (out, err) == ("[5, 6]\n", "")


def test_a_warm_worker_follows_the_caller_to_another_folder_path_and_environment(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import os\ndef program(context):\n"
        "    return os.getcwd(), os.environ.get('LATE'), os.environ['OMP_NUM_THREADS']\n"
    )
    script = tmp_path / "fit.py"
    script.write_text(
        HEAD
        + f"sums(Processes(2))\nos.chdir({str(tmp_path)!r})\nsys.path.insert(0, '')\nos.environ['LATE'] = 'yes'\n"
        + "print(*Processes(2).launch(Program('late:program'), plan(2)).results(), flush=True)\n"
    )
    out, err = start("-c", script.read_text(), cwd="/").communicate(timeout=60)
    one = (str(tmp_path), "yes", "1")
    assert (out, err) == (f"{one} {one}\n", "")


@pytest.mark.parametrize("engine", ["Threads(2)", "Processes(2)"])
@pytest.mark.parametrize("group", [False, True], ids=["caller", "process-group"])
def test_ctrl_c_stops_every_rank_and_the_next_fit_works(engine: str, group: bool) -> None:
    process = start("-c", HANGS.replace("ENGINE", engine), start_new_session=True)
    assert process.stdout is not None
    caller, *workers = map(int, process.stdout.readline().split())
    busy = workers or [caller]
    ticks = {pid: _ticks(pid) for pid in busy}  # imports have used some already
    assert until(lambda: all(_ticks(pid) > ticks[pid] + 30 for pid in busy), 10)  # the endless run is going on
    began = time.monotonic()
    if group:
        os.killpg(caller, signal.SIGINT)
    else:
        os.kill(caller, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("interrupted\nthen 2\n", "")
    assert time.monotonic() - began < 5
    assert until(lambda: all(map(gone, workers)), 5)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_caller_is_killed(number: signal.Signals) -> None:
    process = start("-c", HANGS.replace("ENGINE", "Processes(2)"))
    assert process.stdout is not None
    _, *workers = map(int, process.stdout.readline().split())
    assert len(workers) == 2
    process.send_signal(number)
    process.communicate(timeout=10)
    assert until(lambda: all(map(gone, workers)), 2)


def test_a_forked_child_has_workers_of_its_own() -> None:
    script = HEAD + (
        "first = sums(Processes(2)); mine = set(worker_pids())\n"
        "if pid := os.fork():\n"
        "    _, status = os.waitpid(pid, 0)\n"
        "    again = sums(Processes(2))\n"
        "    print('parent', status, set(worker_pids()) == mine, len(again), flush=True)\n"
        "else:\n"
        "    assert worker_pids() == []\n"
        "    sums(Threads(2)); sums(Processes(2))\n"
        "    assert len(worker_pids()) == 2 and not mine & set(worker_pids())\n"
        "    print('child', flush=True)\n"
    )
    out, err = start("-c", script).communicate(timeout=60)
    assert (out, err) == ("child\nparent 0 True 2\n", "")


def test_what_a_rank_prints_is_seen() -> None:
    script = HEAD + "Processes(2).launch(Program('builtins:print'), plan(1)).results()\n"
    out, err = start("-c", script).communicate(timeout=60)
    assert "_Context object" in out
    assert err == ""
