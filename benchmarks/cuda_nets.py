"""Claim: a net on one GPU keeps up with a hand-written torch loop on it; several workers may share the GPU.

usage: python benchmarks/cuda_nets.py [--repeats 2] [--models mlp2048 cnn ...]        needs torch (extra [torch]), a GPU
Same global batch, optimizer fused on both sides, median ms of a step after a warm-up, systems in turn.  plain: batches
lie on the GPU already; tutti-S-W: n_shards=S on W worker processes, rows come from the host's memory.
"""

from __future__ import annotations

import argparse
import importlib.util

from _common import alone, header, in_turn, milliseconds, same_bits, save

MODELS = ("mlp256", "mlp2048", "cnn", "trf", "wide")
SYSTEMS = ("plain", "tutti-1-1", "tutti-8-1", "tutti-8-2")


def device() -> str | None:
    """Return the name of the first GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.device_count() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    name = device()
    if name is None:
        print("no GPU here: nothing measured")
        return
    lines = [header(), f"gpu       {name}", "", "model    " + "".join(f"{s:>12}" for s in SYSTEMS) + "      ms a step"]
    verdicts = []
    for model in given.models:
        found = in_turn(SYSTEMS, given.repeats, lambda system, model=model: alone("_cuda_net.py", system, model))
        ms = milliseconds(found)
        lines.append(f"{model:9}" + "".join(f"{ms[s]:12.3f}" for s in SYSTEMS))
        same = same_bits([*found["tutti-8-1"], *found["tutti-8-2"]])
        verdicts.append(
            f"{model:9} {ms['plain'] / ms['tutti-1-1']:.2f}x plain torch with one shard, "
            f"{ms['plain'] / ms['tutti-8-1']:.2f}x with eight, {same}"
        )
        print(verdicts[-1], flush=True)
    save("cuda_nets", "\n".join([*lines, "", *verdicts]))


if __name__ == "__main__":
    main()
