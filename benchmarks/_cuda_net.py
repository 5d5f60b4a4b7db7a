"""One system on one net and one GPU, alone in its process; prints a JSON line.  Called by cuda_nets.py.

usage: python benchmarks/_cuda_net.py {plain,tutti-SHARDS-WORKERS} MODEL
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from _net import BATCH, SECONDS, module, optimizer, rows

GPU = "cuda:0"


def plain(name: str) -> float:
    net = module(name).to(GPU)
    own = optimizer(name, net.parameters())
    x, y = (torch.from_numpy(a).to(GPU) for a in rows(name))
    batch = BATCH[name]
    cut = [(x[i:][:batch], y[i:][:batch]) for i in range(0, len(x) - batch + 1, batch)]

    def steps(n: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(n):
            a, b = cut[i % len(cut)]
            own.zero_grad()
            torch.nn.functional.cross_entropy(net(a), b).backward()
            own.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / n

    steps(20)
    return steps(max(20, int(SECONDS / steps(20)))) * 1e3


def ours(name: str, n_shards: int, workers: int) -> tuple[float, str]:
    import tutti

    x, y = rows(name)
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}
    if name == "trf":
        settings = {"optimizer": "adamw", "lr": 1e-3}

    def fit(epochs: int) -> Any:
        return tutti.NeuralNetClassifier(
            module(name),
            loss=torch.nn.CrossEntropyLoss(),  # a loss of its own: "wide" has more outputs than labels
            batch_size=BATCH[name],
            epochs=epochs,
            device=GPU,
            engine=tutti.Processes(workers, timeout_seconds=60),
            n_shards=n_shards,
            random_state=0,
            **settings,
        ).fit(x, y)

    first = fit(3)  # of one length for any number of workers, so that the hashes can be compared
    seconds = [h["seconds"] for h in first.history_]
    history = fit(max(4, int(SECONDS / (seconds[2] - seconds[1])) + 2)).history_
    took = history[-1]["seconds"] - history[0]["seconds"]
    return took / (history[-1]["step"] - history[0]["step"]) * 1e3, first.report_.sha256


def main() -> None:
    system, name = sys.argv[1:]
    if system == "plain":
        print(json.dumps({"ms": plain(name), "sha256": ""}))
        return
    _, n_shards, workers = system.split("-")
    ms, sha = ours(name, int(n_shards), int(workers))
    print(json.dumps({"ms": ms, "sha256": sha}))


if __name__ == "__main__":
    main()
