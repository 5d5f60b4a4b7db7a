"""Claim: shared memory carries arrays between two processes faster than gloo and no slower than Open MPI.

usage: python benchmarks/transport.py [--repeats 3] [--mpi PYTHON]         gloo needs torch (extra [torch])
Median of calls, systems in turn, best of the repeats; PYTHON is an interpreter with mpi4py, and mpirun lies beside it
or on the path.  "copied": from an array of one's own into another; "in place": rows of the segment that is summed;
"as backend": a tensor through torch.distributed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from _common import HERE, alone, header, save
from _transport import SIZES

GOALS = {"4 KB": 0.020, "barrier": 0.010}  # milliseconds
RATIOS: dict[str, dict[str, float]] = {  # times faster than the others
    "1 MB": {"gloo": 5.0, "Open MPI": 1.0},
    "10 MB": {"gloo": 5.0, "Open MPI": 1.0},
    "100 MB": {"gloo": 2.0},
}


def mpi(python: str) -> list[dict[str, float]]:
    """Run Open MPI's ranks; an empty list where it is not installed."""
    beside = Path(python).parent / "mpirun"
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    known = subprocess.run([python, "-c", "import mpi4py"], capture_output=True, check=False).returncode == 0
    if mpirun is None or not known:
        return []
    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "2", python, str(HERE / "_transport.py"), "mpi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ))
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mpi", default=sys.executable)
    given = parser.parse_args()
    has_torch = importlib.util.find_spec("torch") is not None
    found: dict[str, dict[str, float]] = {}
    ddp: dict[str, list[float]] = {"ddp": [], "shmddp": []}
    for _ in range(given.repeats):
        runs = {"ours": alone("_transport.py", "ours"), "Open MPI": mpi(given.mpi)}
        if has_torch:
            runs |= {s: alone("_transport.py", s) for s in ("gloo", "tutti")}
            for system in ddp:
                ddp[system] += [row["ms"] for row in alone("_net.py", f"{system}-2", "mlp256")]
        for system, rows in runs.items():
            for row in rows:
                best = found.setdefault(system, row)
                found[system] = {name: min(ms, best[name]) for name, ms in row.items()}
    rows = {"in place": ("ours", "in place"), "copied": ("ours", "copied")}
    rows |= {
        label: (s, "copied") for label, s in {"as backend": "tutti", "gloo": "gloo", "Open MPI": "Open MPI"}.items()
    }
    lines = [header(), "", f"{'':12}" + "".join(f"{s:>10}" for s in (*SIZES, "barrier", "burnt")) + "      ms"]
    for label, (system, kind) in rows.items():
        if system not in found:
            lines.append(f"{label:12} not installed")
            continue
        ms = [found[system][f"{kind} {size}"] for size in SIZES] + [found[system][n] for n in ("barrier", "burnt")]
        lines.append(f"{label:12}" + "".join(f"{m:10.4f}" for m in ms))
    lines += ["burnt: processor time of a rank while the other is 20 ms late", ""]
    own = found["ours"]
    for size, goals in RATIOS.items():
        ms = own[f"copied {size}"]
        times = []
        for system in ("gloo", "Open MPI"):
            goal = f" (goal {goals[system]}x)" if system in goals else ""
            if system in found:
                times.append(f"{found[system][f'copied {size}'] / ms:.2f}x {system}{goal}")
        lines.append(f"all_reduce {size:7} copied {ms:.3f} ms: {', '.join(times)}")
    small, barrier = own["copied 4 KB"] * 1e3, own["barrier"] * 1e3
    lines.append(f"all_reduce 4 KB p50 {small:.1f} us (goal {GOALS['4 KB'] * 1e3:.0f}), ")
    lines[-1] += f"barrier p50 {barrier:.1f} us (goal {GOALS['barrier'] * 1e3:.0f})"
    if ddp["shmddp"] and ddp["ddp"]:
        ms, gloo = min(ddp["shmddp"]), min(ddp["ddp"])
        lines.append(f"DDP on tutti.torch_backend, mlp256: {ms:.2f} ms a step, on gloo {gloo:.2f} ms: {gloo / ms:.2f}x")
    save("transport", "\n".join(lines))


if __name__ == "__main__":
    main()
