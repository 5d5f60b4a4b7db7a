"""What benchmarks share: options, the header of a result (hardware, versions, date, command), one system run alone."""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:glibc.malloc.top_pad=268435456"
}
"""An environment in which large arrays are not given back to the system and asked for anew; the same for all."""
PACKAGES = (
    "tutti",
    "torch",
    "numpy",
    "numba",
    "pyarrow",
    "scikit-learn",
    "snapml",
    "scikit-learn-intelex",
    "xgboost-cpu",
    "lightgbm",
    "joblib",
)


def net_options(doc: str | None, repeats: int, **more: str | list[str]) -> argparse.Namespace:
    """Return --repeats and such as --models of a benchmark of nets, by their defaults; without torch say so and end."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats)
    for name, default in more.items():
        parser.add_argument(f"--{name}", nargs="*" if isinstance(default, list) else None, default=default)
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print('skipped, because torch is not installed: pip install "tutti[torch]"')
        sys.exit()
    return given


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def header(command: list[str] | None = None) -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = [Path(sys.argv[0]).name, *(command if command is not None else sys.argv[1:])]
    return "\n".join(
        [
            f"date      {date.today().isoformat()}",
            f"hardware  {cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
            f"versions  Python {platform.python_version()}, {', '.join(versions)}",
            f"command   python benchmarks/{' '.join('DIR' if w.startswith(os.sep) else w for w in words)}",
        ]
    )


def alone(
    script: str,
    *arguments: str,
    timeout: float = 900,
    env: dict[str, str] | None = None,
    within: tuple[str, ...] = (),
    python: str = sys.executable,
    repeats: int = 1,
) -> list[dict[str, Any]]:
    """Run a script of this folder in its own process, away from other systems' threads; return its JSON lines.

    ``within`` is a command that runs what is appended to it, ``python`` the interpreter; ``repeats`` processes, one
    after the other.
    """
    rows: list[dict[str, Any]] = []
    for _ in range(repeats):
        done = subprocess.run(
            [*within, python, str(HERE / script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )
        if done.returncode == 0:
            rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        else:
            print(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
    return rows


def in_turn(
    systems: Iterable[str], repeats: int, run: Callable[[str], list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each system; every repeat runs all of them, so that the machine's mood meets all alike."""
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(repeats):
        for system, rows in found.items():
            rows += run(system)
    return found


def within(link: str) -> tuple[str, ...]:
    """Return the command that runs another one in a network of its own, whose loopback has the rate of the link."""
    if link == "loopback":
        return ()
    shaped = f'ip link set lo up && tc qdisc add dev lo root tbf rate {link} burst 1mb latency 100ms && exec "$@"'
    return "unshare", "-n", "sh", "-c", shaped, "sh"


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of every number in the rows; none without rows."""
    numbers = [name for row in rows[:1] for name, value in row.items() if isinstance(value, int | float)]
    return {name: median([row[name] for row in rows]) for name in numbers}


def milliseconds(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return the median of "ms" by system, nan where it did not run."""
    return {system: medians(rows).get("ms", float("nan")) for system, rows in found.items()}


def same_bits(rows: Iterable[dict[str, Any]]) -> str:
    """Tell whether all rows that have a model's hash have the same."""
    return "same bits" if len({row["sha256"] for row in rows} - {""}) == 1 else "DIFFERENT BITS"


def median(values: list[float]) -> float:
    return float(np.median(values))


def spread(values: list[float], digits: int = 2) -> str:
    """Return the lowest and the highest of the repeats."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def save(name: str, text: str) -> None:
    """Print the result and keep it as benchmarks/results/<name>.txt."""
    print(text, flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.txt").write_text(text + "\n")


def save_rows(name: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Keep what a plot needs beyond the text, such as curves, as benchmarks/results/<name>.csv."""
    (HERE / "results").mkdir(exist_ok=True)
    with open(HERE / "results" / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
