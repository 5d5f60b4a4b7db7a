"""One system on one net, alone in its process; prints a JSON line.  Called by nets.py.

usage: python benchmarks/_net.py SYSTEM MODEL      SYSTEM: {plain,ddp,shmddp,threads,processes,inexact}-WORKERS
shmddp is DDP on `tutti.torch_backend`.
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
from torch import nn

BATCH = {"mlp256": 256, "mlp2048": 2048, "cnn": 256, "trf": 64, "wide": 64}
SECONDS = 3.0


class Encoder(nn.Module):
    """A small transformer encoder over 64 tokens."""

    def __init__(self, d: int = 128, vocabulary: int = 1000) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.place = nn.Parameter(torch.zeros(64, d))
        layer = nn.TransformerEncoderLayer(d, 4, 4 * d, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(d, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


def module(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("mlp"):
        sizes = (784, 256, 128, 10)
    elif name == "wide":
        sizes = (4096, 4096, 4096)
    elif name == "trf":
        return Encoder()
    else:
        stages = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        stages += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*stages, nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10))
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(1)
    if name == "trf":
        return r.integers(0, 1000, (2048, 64)), r.integers(0, 10, 2048)
    if name == "wide":
        return r.standard_normal((512, 4096), dtype=np.float32), np.arange(512)
    x = r.random((8192, 784), dtype=np.float32)
    return x.reshape(-1, 1, 28, 28) if name == "cnn" else x, r.integers(0, 10, 8192)


def optimizer(name: str, parameters: Any) -> torch.optim.Optimizer:
    if name == "trf":
        return torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, fused=True)


def loop(name: str, rank: int = 0, size: int = 1) -> float:
    """Return ms a step of a hand-written loop; batches are views, nothing is copied or shuffled."""
    net: nn.Module = module(name)
    if size > 1:
        net = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
    x, y = (torch.from_numpy(a) for a in rows(name))
    batch, part = BATCH[name], BATCH[name] // size
    own = optimizer(name, net.parameters())
    starts = range(0, len(x) - batch + 1, batch)
    cut = [(x[i + rank * part :][:part], y[i + rank * part :][:part]) for i in starts]

    def steps(n: int) -> None:
        for i in range(n):
            a, b = cut[i % len(cut)]
            own.zero_grad()
            nn.functional.cross_entropy(net(a), b).backward()
            own.step()

    steps(10)
    began = time.perf_counter()
    steps(10)
    n = torch.tensor([max(10, int(10 * SECONDS / (time.perf_counter() - began)))])
    if size > 1:
        torch.distributed.broadcast(n, 0)
    began = time.perf_counter()
    steps(int(n))
    return (time.perf_counter() - began) / int(n) * 1e3


def ddp(rank: int, backend: str, name: str, port: int, result: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if backend == "tutti":
        import tutti.torch_backend  # noqa: F401
    torch.distributed.init_process_group(backend, rank=rank, world_size=2)
    ms = loop(name, rank, 2)
    if rank == 0:
        with open(result, "w") as file:
            file.write(repr(ms))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


def ours_settings(name: str) -> dict[str, Any]:
    """Return `optimizer` in the words of the estimator."""
    if name == "trf":
        return {"optimizer": "adamw", "lr": 1e-3}
    return {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ours(kind: str, name: str, workers: int) -> tuple[float, str]:
    import tutti

    x, y = rows(name)
    loss = torch.nn.CrossEntropyLoss()  # a loss of its own: "wide" has more outputs than labels
    engine = (tutti.Threads if kind == "threads" else tutti.Processes)(workers)

    def fit(epochs: int) -> Any:
        return tutti.NeuralNetClassifier(
            module(name),
            loss=loss,
            batch_size=BATCH[name],
            epochs=epochs,
            engine=engine,
            exact=kind != "inexact",
            **ours_settings(name),
        ).fit(x, y)

    first = fit(3)  # of one length on every engine, so that the hashes can be compared
    seconds = [h["seconds"] for h in first.history_]
    epochs = max(4, int(SECONDS / (seconds[2] - seconds[1])) + 2)
    model = fit(epochs)
    history = model.history_
    took = history[-1]["seconds"] - history[0]["seconds"]
    return took / (history[-1]["step"] - history[0]["step"]) * 1e3, first.report_.sha256


def main() -> None:
    system, name = sys.argv[1:]
    kind, _, workers = system.partition("-")
    sha = ""
    if kind == "plain":
        torch.set_num_threads(int(workers))
        ms = loop(name)
    elif kind in ("ddp", "shmddp"):
        with tempfile.TemporaryDirectory() as folder:
            backend = "gloo" if kind == "ddp" else "tutti"
            torch.multiprocessing.spawn(ddp, (backend, name, free_port(), f"{folder}/ms"), nprocs=2)
            with open(f"{folder}/ms") as file:
                ms = float(file.read())
    else:
        torch.set_num_threads(1)
        ms, sha = ours(kind, name, int(workers))
    print(json.dumps({"ms": ms, "sha256": sha}))


if __name__ == "__main__":
    main()
