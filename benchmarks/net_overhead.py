"""Claim: fitting a net on one worker takes at most 5 % longer than a hand-written torch loop.

usage: python benchmarks/net_overhead.py [--repeats 7]        needs torch (extra [torch])
mlp256 (784-256-128-10), batch 256, SGD with momentum, one torch thread on both sides, the rows shuffled every epoch on
both, fused optimizers; epochs after the first ones, systems in turn, each turn a process.  The loop is written as most
are: a permutation, index the rows, zero_grad, forward, backward, step.  Other work on the machine only adds time, so
the best epoch of all turns decides; the median of the turns' medians stands beside it.
"""

from __future__ import annotations

from _common import alone, header, in_turn, median, net_options, save

SYSTEMS = ("loop", "tutti-1", "tutti-8")
GOAL = 0.05


def main() -> None:
    given = net_options(__doc__, 7)
    rows = in_turn(SYSTEMS, given.repeats, lambda system: alone("_net_overhead.py", system))
    found = {s: [row["ms"] for row in of] for s, of in rows.items()}
    best = {s: min(min(turn) for turn in turns) for s, turns in found.items()}
    middle = {s: median([median(turn) for turn in turns]) for s, turns in found.items()}
    lines = [header(), "", f"{'':10}{'best':>8}{'overhead':>10}{'median':>10}{'overhead':>10}      ms a step"]
    for s in SYSTEMS:
        over = best[s] / best["loop"] - 1, middle[s] / middle["loop"] - 1
        lines.append(f"{s:10}{best[s]:8.3f}{over[0]:+10.1%}{middle[s]:10.3f}{over[1]:+10.1%}")
    lines += ["", "medians of the turns"]
    lines += [f"{s:10}" + " ".join(f"{median(turn):.3f}" for turn in found[s]) for s in SYSTEMS]
    lines += ["", f"tutti-N: n_shards=N on one worker, the default is 8; goal at most {GOAL:+.0%}"]
    save("net_overhead", "\n".join(lines))


if __name__ == "__main__":
    main()
