"""Claim: fitting a net on one worker takes at most 5 % longer than a hand-written torch loop.

usage: python benchmarks/net_overhead.py [--repeats 3]        needs torch (extra [torch])
mlp256 (784-256-128-10), batch 256, SGD with momentum, one torch thread on both sides, the rows shuffled every epoch on
both, fused optimizers; median seconds of an epoch after the first ones, systems in turn.  The loop is written as most
are: a permutation, index the rows, zero_grad, forward, backward, step.
"""

from __future__ import annotations

import argparse
import importlib.util

from _common import alone, header, median, save

SYSTEMS = ("loop", "tutti-1", "tutti-8")
GOAL = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print('skipped, because torch is not installed: pip install "tutti[torch]"')
        return
    found: dict[str, list[float]] = {s: [] for s in SYSTEMS}
    for _ in range(given.repeats):
        for system in SYSTEMS:
            found[system] += [row["ms"] for row in alone("_net_overhead.py", system)]
    ms = {s: median(v) for s, v in found.items()}
    lines = [header(), "", f"{'':10}{'ms a step':>10}{'(all)':>24}{'overhead':>10}"]
    for system in SYSTEMS:
        every = " ".join(f"{v:.3f}" for v in found[system])
        lines.append(f"{system:10}{ms[system]:10.3f}{every:>24}{ms[system] / ms['loop'] - 1:+10.1%}")
    lines += ["", f"tutti-N: n_shards=N on one worker, the default is 8; goal at most {GOAL:+.0%}"]
    save("net_overhead", "\n".join(lines))


if __name__ == "__main__":
    main()
