"""One rank of a plain DDP training, started by test_torch_backend.py: FOLDER RANK SIZE [die]; prints JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import tutti.torch_backend  # noqa: F401


def calls(rank: int, size: int) -> None:
    """What DDP and its users call, on tensors of many lengths, dtypes and layouts."""
    total = size * (size - 1) // 2
    for length in (0, 1, 5, 1000, 100_000, 700_001):
        for dtype in (torch.float32, torch.float64, torch.int64, torch.bfloat16):
            x = torch.full((length,), rank, dtype=dtype)
            dist.all_reduce(x)
            assert (x == total).all()
        x = torch.full((length,), float(rank))
        dist.all_reduce(x, dist.ReduceOp.AVG)
        assert (x == total / size).all()
        x = torch.full((length,), float(rank))
        dist.all_reduce(x, dist.ReduceOp.MAX)
        assert (x == size - 1).all()
        x = torch.full((length,), float(rank))
        dist.broadcast(x, size - 1)
        assert (x == size - 1).all()
        rows = [torch.empty(length) for _ in range(size)]
        dist.all_gather(rows, torch.full((length,), float(rank)))
        assert all((row == r).all() for r, row in enumerate(rows))
        own = torch.empty(length)
        dist.reduce_scatter(own, [torch.full((length,), float(r)) for r in range(size)])
        assert (own == rank * size).all()
    x = (torch.zeros(4, 6) + rank).t()
    dist.all_reduce(x)
    assert (x == total).all()
    said: list[object] = [None] * size
    dist.all_gather_object(said, {"rank": rank})
    assert said == [{"rank": r} for r in range(size)]


def train(rank: int, size: int) -> list[float]:
    torch.manual_seed(rank)  # DDP spreads the weights of rank 0
    net = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    ddp = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    x = torch.randn(64 * size, 20, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ddp(x[rank::size]), y[rank::size])
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / size)
    return losses


def join(backend: str, folder: str, rank: int, size: int) -> None:
    store = f"file://{folder}/store-{backend}"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))


def die(rank: int, size: int) -> dict[str, object]:
    """What the others hear of a last rank that is killed between two calls."""
    dist.barrier()
    if rank == size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.perf_counter()
    try:
        dist.barrier()
    except RuntimeError as error:
        return {"error": str(error), "seconds": time.perf_counter() - began}
    return {}


def main() -> None:
    folder, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    if sys.argv[4:] == ["die"]:
        join("tutti", folder, rank, size)
        print(json.dumps(die(rank, size)))
        return
    losses = {}
    for backend in ("tutti", "gloo"):
        join(backend, folder, rank, size)
        if backend == "tutti":
            calls(rank, size)
        losses[backend] = train(rank, size)
        dist.barrier()
        dist.destroy_process_group()
    print(json.dumps(losses), flush=True)


if __name__ == "__main__":
    main()
