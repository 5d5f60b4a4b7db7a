"""Claim: asynchronous updates through shared memory outrun servers in a process of their own.

usage: python benchmarks/updates.py [--repeats 3] [MODEL ...]        needs torch (extra [torch]); ray if it is there
Two workers of one thread on the nets of nets.py, half a global batch an update; each system alone, in turn.  Goal: 1.3
times the updates a second of the better of a torch RPC server and a Ray actor.
"""

from __future__ import annotations

import argparse
import importlib.util

from _common import alone, header, median, save

MODELS = ("mlp256", "mlp2048", "wide")
SYSTEMS = {"ours-async": "ours", "rpc-async": "torch RPC", "ray-async": "Ray actor"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("models", nargs="*", default=MODELS)
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print('skipped, because torch is not installed: pip install "tutti[torch]"')
        return
    systems = {s: name for s, name in SYSTEMS.items() if s != "ray-async" or importlib.util.find_spec("ray")}
    lines = [
        header(),
        "",
        f"{'updates a second':18}" + "".join(f"{name:>12}" for name in systems.values()) + "   ratio",
    ]
    for model in given.models:
        found: dict[str, list[float]] = {system: [] for system in systems}
        for _ in range(given.repeats):
            for system, rates in found.items():
                rates += [line["updates"] for line in alone("_servers.py", system, model)]
        rate = {system: median(rates) for system, rates in found.items() if rates}
        rivals = [r for system, r in rate.items() if system != "ours-async"]
        ratio = f"{rate['ours-async'] / max(rivals):7.2f}x" if rivals and "ours-async" in rate else "      -"
        lines.append(f"{model:18}" + "".join(f"{rate.get(s, float('nan')):12.1f}" for s in systems) + ratio)
    lines += ["", "goal 1.3x the better rival"]
    save("updates", "\n".join(lines))


if __name__ == "__main__":
    main()
