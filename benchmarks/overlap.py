"""Claim: gradients that travel over gloo while the backward pass still runs make a step shorter, and change no bit.

usage: python benchmarks/overlap.py [--repeats 1] [--models mlp trf trf8] [--links loopback 2gbit]      needs torch
Two processes of one thread, the same global batch; ms a step after a warm-up, systems in turn.  "late" sends all
gradients after the backward pass, "ddp" is DistributedDataParallel as it comes.  mlp: four dense layers, 1,024 rows,
a shard for each process.  trf: a transformer encoder of two layers, width 256, 32 x 64 tokens, a shard for each
process; trf8: eight shards, of which only the last one of each process has anything to overlap with.
A link other than loopback is a loopback interface held to that rate for both directions together (root, Linux).
"""

from __future__ import annotations

from _common import alone, header, median, net_options, save

SYSTEMS = ("early", "late", "ddp")


def within(link: str) -> tuple[str, ...]:
    """Return the command that runs another one in a network of its own, whose loopback has the rate of the link."""
    if link == "loopback":
        return ()
    shaped = f'ip link set lo up && tc qdisc add dev lo root tbf rate {link} burst 1mb latency 100ms && exec "$@"'
    return "unshare", "-n", "sh", "-c", shaped, "sh"


def main() -> None:
    given = net_options(__doc__, 1, models=["mlp", "trf", "trf8"], links=["loopback", "2gbit"])
    lines = [header(), "", f"{'net':6}{'link':>10}{'MiB':>6}" + "".join(f"{s:>9}" for s in SYSTEMS) + "      ms a step"]
    for model in given.models:
        for link in given.links:
            found: dict[str, list[float]] = {s: [] for s in SYSTEMS}
            hashes, size = set(), 0.0
            for _ in range(given.repeats):
                for system in SYSTEMS:
                    for row in alone("_overlap.py", system, model, within=within(link)):
                        found[system].append(row["ms"])
                        size = row["mib"]
                        hashes |= {row["sha256"]} if row["sha256"] else set()
            early, late, ddp = (median(v) if v else float("nan") for v in found.values())
            same = "same bits" if len(hashes) == 1 else "DIFFERENT BITS"
            lines.append(
                f"{model:6}{link:>10}{size:6.1f}{early:9.1f}{late:9.1f}{ddp:9.1f}"
                f"      {late / early:.2f}x late, {ddp / early:.2f}x ddp, {same}"
            )
            print(lines[-1], flush=True)
    save("overlap", "\n".join(lines))


if __name__ == "__main__":
    main()
