"""Claim: a net's workers make more updates a second than with a parameter server made of torch RPC or of a Ray actor.

usage: python benchmarks/updates.py [--repeats 2] [--models mlp256 ...] [--ray PYTHON]      needs torch (extra [torch])
Two workers of one thread, half a global batch an update, systems in turn, each alone; median of the repeats, then the
lowest and the highest.  Malloc is tuned for all, the optimizer is fused for all.  The rivals need a third process on
the two cores, ours none, but for ours-tcp, which has a server behind TLS as between hosts.  PYTHON is an interpreter
with ray and torch.  Goal: asynchronously 1.3 times the best rival, whichever way that one works.
"""

from __future__ import annotations

import subprocess
import sys

from _common import MALLOC, alone, header, median, net_options, save, spread

SYSTEMS = ("ours-async", "ours-sync", "ours-tcp", "rpc-async", "rpc-sync", "ray-async", "ray-sync")
GOAL = 1.3


def main() -> None:
    given = net_options(__doc__, 2, models=["mlp256", "mlp2048", "wide"], ray=sys.executable)
    systems = SYSTEMS
    if subprocess.run([given.ray, "-c", "import ray, torch"], capture_output=True, check=False).returncode != 0:
        print("rivals of Ray are skipped, because ray is not installed: pip install ray, or --ray PYTHON", flush=True)
        systems = tuple(s for s in SYSTEMS if not s.startswith("ray"))
    lines = [header(), "", "model    " + "".join(f"{s:>12}" for s in systems) + "      updates a second"]
    verdicts, spreads = [], [f"lowest to highest of {given.repeats} repeats"]
    for model in given.models:
        found: dict[str, list[float]] = {s: [] for s in systems}
        for _ in range(given.repeats):
            for system in systems:
                python = given.ray if system.startswith("ray") else sys.executable
                rows = alone("_servers.py", system, model, env={**MALLOC, "OMP_NUM_THREADS": "1"}, python=python)
                found[system] += [row["updates"] for row in rows]
        rates = {s: median(v) for s, v in found.items() if v}
        lines.append(f"{model:9}" + "".join(f"{rates.get(s, float('nan')):12.1f}" for s in systems))
        spreads.append(f"{model:9}" + ", ".join(f"{s} {spread(v, 1)}" for s, v in found.items() if v))
        rivals = {s: rate for s, rate in rates.items() if not s.startswith("ours")}
        if "ours-async" in rates and rivals:
            best = max(rivals, key=lambda s: rivals[s])
            ratio = rates["ours-async"] / rivals[best]
            verdicts.append(f"{model:9} ours-async {ratio:.2f}x the best rival, {best} (goal {GOAL}x)")
        print("\n".join([lines[-1], *verdicts[-1:]]), flush=True)
    save("updates", "\n".join([*lines, "", *verdicts, "", *spreads]))


if __name__ == "__main__":
    main()
