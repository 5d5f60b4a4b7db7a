"""One system from its start to its first step, alone in its process; prints a JSON line.  Called by net_start.py.

usage: python benchmarks/_net_start.py {processes,threads,ddp} WHEN      WHEN: time.time() of the start
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, BATCH, WARM = 2048, 256, 5


def stamp(folder: str) -> None:
    """Write down when this worker has done its first step."""
    path = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}"
    path.write_text(repr(time.time()))


def last(folder: str) -> float:
    return max(float(path.read_text()) for path in Path(folder).iterdir())


class Stamped:
    """Stands in for a schedule, which is stepped right after the optimizer."""

    def __init__(self, optimizer: Any, folder: str) -> None:
        self.folder: str | None = folder

    def step(self) -> None:
        if self.folder is not None:
            stamp(self.folder)
            self.folder = None


def ours(kind: str, began: float) -> dict[str, Any]:
    import numpy as np
    from torch import nn

    import tutti

    def module() -> Any:
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))

    x = np.random.default_rng(1).random((ROWS, 784), dtype=np.float32)
    y = np.arange(ROWS) % 10
    engine = (tutti.Threads if kind == "threads" else tutti.Processes)(2)
    found = []
    for _ in range(1 + WARM):
        with tempfile.TemporaryDirectory() as folder:
            options = {"optimizer": "sgd", "optimizer__momentum": 0.9, "lr_schedule": Stamped}
            net = tutti.NeuralNetClassifier(
                module, batch_size=BATCH, epochs=1, engine=engine, lr_schedule__folder=folder, **options
            )
            net.fit(x, y)
            found.append(last(folder) - began)
        began = time.time()
    return {"cold": found[0], "warm": found[1:]}


def ddp(rank: int, port: int, folder: str) -> None:
    import torch
    from torch import nn

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    net = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
    x, y = torch.rand(BATCH // 2, 784), torch.arange(BATCH // 2) % 10
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
    stamp(folder)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


def main() -> None:
    system, began = sys.argv[1], float(sys.argv[2])
    if system != "ddp":
        print(json.dumps(ours(system, began)))
        return
    import torch.multiprocessing

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(ddp, (port, folder), nprocs=2)
        print(json.dumps({"cold": last(folder) - began, "warm": []}))


if __name__ == "__main__":
    main()
