"""Claim: a net's first step is done sooner than DDP's, and at once where the workers are warm.

usage: python benchmarks/net_start.py [--repeats 3]        needs torch (extra [torch])
Two workers, mlp256 (784-256-128-10), batch 256, SGD with momentum.  Cold: from the start of a fresh Python process
until both workers have done their first optimizer step, imports included.  Warm: from calling ``fit`` a second time in
the same process.  The clock is the machine's; each worker writes down when its first step was done.
"""

from __future__ import annotations

import time

from _common import alone, header, in_turn, median, net_options, save

SYSTEMS = ("processes", "threads", "ddp")
WARM_GOAL_SECONDS = 0.6


def main() -> None:
    given = net_options(__doc__, 3)
    found = in_turn(SYSTEMS, given.repeats, lambda system: alone("_net_start.py", system, repr(time.time())))
    cold = {s: [row["cold"] for row in rows] for s, rows in found.items()}
    warm = {s: [seconds for row in rows for seconds in row["warm"]] for s, rows in found.items()}
    lines = [header(), "", f"{'':12}{'cold':>8}{'(all)':>30}{'warm':>8}      seconds to the first step"]
    for system in SYSTEMS:
        every = " ".join(f"{s:.2f}" for s in cold[system])
        again = f"{median(warm[system]):8.3f}" if warm[system] else f"{'-':>8}"
        lines.append(f"{system:12}{median(cold[system]):8.2f}{every:>30}{again}")
    ours, theirs, again = median(cold["processes"]), median(cold["ddp"]), median(warm["processes"])
    lines += [
        "",
        f"cold {theirs / ours:.2f}x DDP (goal 1.0x), warm {again:.3f} s (goal {WARM_GOAL_SECONDS} s)",
    ]
    save("net_start", "\n".join(lines))


if __name__ == "__main__":
    main()
