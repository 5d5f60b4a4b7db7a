"""Claim: gradients that travel over gloo while the backward pass still runs make a step shorter, and change no bit.

usage: python benchmarks/overlap.py [--repeats 1] [--models mlp trf trf8] [--links loopback 2gbit]      needs torch
Two processes of one thread, the same global batch; ms a step after a warm-up, systems in turn.  "late" sends all
gradients after the backward pass, "ddp" is DistributedDataParallel as it comes.  mlp: four dense layers, 1,024 rows,
a shard for each process.  trf: a transformer encoder of two layers, width 256, 32 x 64 tokens, a shard for each
process; trf8: eight shards, of which only the last one of each process has anything to overlap with.
A link other than loopback is a loopback interface held to that rate for both directions together (root, Linux).
"""

from __future__ import annotations

from _common import alone, header, in_turn, milliseconds, net_options, same_bits, save, within

SYSTEMS = ("early", "late", "ddp")


def main() -> None:
    given = net_options(__doc__, 1, models=["mlp", "trf", "trf8"], links=["loopback", "2gbit"])
    lines = [header(), "", f"{'net':6}{'link':>10}{'MiB':>6}" + "".join(f"{s:>9}" for s in SYSTEMS) + "      ms a step"]
    for model in given.models:
        for link in given.links:
            found = in_turn(
                SYSTEMS,
                given.repeats,
                lambda system, model=model, link=link: alone("_overlap.py", system, model, within=within(link)),
            )
            early, late, ddp = milliseconds(found).values()
            rows = [row for rows in found.values() for row in rows]
            size = rows[-1]["mib"] if rows else 0.0
            lines.append(
                f"{model:6}{link:>10}{size:6.1f}{early:9.1f}{late:9.1f}{ddp:9.1f}"
                f"      {late / early:.2f}x late, {ddp / early:.2f}x ddp, {same_bits(rows)}"
            )
            print(lines[-1], flush=True)
    save("overlap", "\n".join(lines))


if __name__ == "__main__":
    main()
