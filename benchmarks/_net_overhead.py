"""One system on mlp256, alone in its process; prints a JSON line.  Called by net_overhead.py.

usage: python benchmarks/_net_overhead.py {loop,tutti-1,tutti-8} [profile]
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time

import numpy as np
import torch
from torch import nn

ROWS, BATCH, EPOCHS, WARM = 8192, 256, 12, 3
STEPS = ROWS // BATCH


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def rows() -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(1)
    return r.random((ROWS, 784), dtype=np.float32), r.integers(0, 10, ROWS)


def loop() -> list[float]:
    x, y = (torch.from_numpy(a) for a in rows())
    net = module()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
    seconds, total = [], 0.0
    for _ in range(EPOCHS):
        began = time.perf_counter()
        order = torch.randperm(ROWS)
        for lo in range(0, ROWS, BATCH):
            chosen = order[lo : lo + BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - began)
    return seconds[WARM:]


def ours(n_shards: int) -> list[float]:
    import tutti

    net = tutti.NeuralNetClassifier(
        module(),
        optimizer="sgd",
        optimizer__momentum=0.9,
        lr=0.05,
        batch_size=BATCH,
        epochs=EPOCHS,
        n_shards=n_shards,
        engine=tutti.Threads(1),
    )
    net.fit(*rows())
    ends = [h["seconds"] for h in net.history_]
    return [float(s) for s in np.diff(ends)[WARM - 1 :]]


def main() -> None:
    torch.set_num_threads(1)
    system = sys.argv[1]
    run = loop if system == "loop" else lambda: ours(int(system.partition("-")[2]))
    if sys.argv[2:] == ["profile"]:
        profile = cProfile.Profile()
        profile.runcall(run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    print(json.dumps({"ms": [s / STEPS * 1e3 for s in run()]}))


if __name__ == "__main__":
    main()
