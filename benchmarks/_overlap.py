"""One system on one net whose gradients travel over gloo; prints a JSON line.  Called by overlap.py.

usage: python benchmarks/_overlap.py {early,late,ddp} {mlp,trf,trf8}
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from _net import Encoder
from torch import nn

import tutti

BATCH = {"mlp": 1024, "trf": 32, "trf8": 32}
SHARDS = {"mlp": 2, "trf": 2, "trf8": 8}
SECONDS = 3.0


class Late(tutti.AllReduce):
    """`AllReduce` whose gradients travel when all of them are computed."""

    def run(self, worker: Any, learner: Any) -> Any:
        worker.early = lambda template: None
        return super().run(worker, learner)


def module(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("trf"):
        return Encoder(256)
    layers: list[nn.Module] = []
    for a, b in pairwise((784, 1024, 1024, 1024, 10)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(1)
    if name.startswith("trf"):
        return r.integers(0, 1000, (256, 64)), r.integers(0, 10, 256)
    return r.random((4096, 784), dtype=np.float32), r.integers(0, 10, 4096)


def ddp(rank: int, name: str, port: int, result: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = nn.parallel.DistributedDataParallel(module(name), gradient_as_bucket_view=True, static_graph=True)
    own = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
    part, (x, y) = BATCH[name] // 2, (torch.from_numpy(a) for a in rows(name))
    starts = range(rank * part, len(x), 2 * part)

    def steps(n: int) -> None:
        for i in range(n):
            at = starts[i % len(starts)]
            own.zero_grad()
            nn.functional.cross_entropy(net(x[at : at + part]), y[at : at + part]).backward()
            own.step()

    steps(4)
    began = time.perf_counter()
    steps(4)
    n = torch.tensor([max(4, int(4 * SECONDS / (time.perf_counter() - began)))])
    torch.distributed.broadcast(n, 0)
    began = time.perf_counter()
    steps(int(n))
    if rank == 0:
        with open(result, "w") as file:
            file.write(repr((time.perf_counter() - began) / int(n) * 1e3))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


def ours(system: str, name: str) -> tuple[float, str]:
    def fit(epochs: int) -> Any:
        return tutti.NeuralNetClassifier(
            module(name),
            batch_size=BATCH[name],
            epochs=epochs,
            optimizer="sgd",
            lr=0.05,
            optimizer__momentum=0.9,
            n_shards=SHARDS[name],
            engine=tutti.Processes(2, transport="gloo"),
            strategy=tutti.AllReduce() if system == "early" else Late(),
            random_state=0,
        ).fit(*rows(name))

    first = fit(3)
    seconds = [h["seconds"] for h in first.history_]
    history = fit(max(3, int(SECONDS / (seconds[2] - seconds[1])) + 2)).history_
    took = history[-1]["seconds"] - history[0]["seconds"]
    return took / (history[-1]["step"] - history[0]["step"]) * 1e3, first.report_.sha256


def main() -> None:
    system, name = sys.argv[1:]
    size = sum(p.numel() for p in module(name).parameters()) * 4 / 2**20
    sha = ""
    if system == "ddp":
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            torch.multiprocessing.spawn(ddp, (name, port, f"{folder}/ms"), nprocs=2)
            with open(f"{folder}/ms") as file:
                ms = float(file.read())
    else:
        torch.set_num_threads(1)
        ms, sha = ours(system, name)
    print(json.dumps({"ms": ms, "sha256": sha, "mib": size}))


if __name__ == "__main__":
    if __spec__ is None:
        sys.modules["_overlap"] = sys.modules["__main__"]
        Late.__module__ = "_overlap"  # so that workers find it
    main()
