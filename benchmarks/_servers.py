"""Updates a second of one parameter server, alone in its process; prints a JSON line.  Called by updates.py.

usage: python benchmarks/_servers.py SYSTEM MODEL    SYSTEM: {rpc,ray,ours}-{async,sync}, ours-tcp  MODEL: as in _net.py
Two workers of one thread, half a global batch an update.  The rivals keep weights and optimizer in a third process: a
worker pushes its gradient and pulls the weights in one call; "sync" waits for the gradients of both and applies their
mean.  Ours has them in shared memory, where "sync" is staleness=0; "tcp" is asynchronous over TLS, with a server
process, as between hosts.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from typing import Any

import torch
from _net import BATCH, free_port, module, optimizer, ours_settings, rows
from torch import nn

SECONDS = {"mlp256": 3.0, "mlp2048": 3.0, "wide": 8.0}
WARM_UP = 20
"""Updates before the clock starts."""


class Server:
    """The weights as one vector, stepped by whoever pushes."""

    def __init__(self, name: str) -> None:
        self.weights = nn.Parameter(nn.utils.parameters_to_vector(module(name).parameters()).detach())
        self.own, self.lock, self.seconds = optimizer(name, [self.weights]), threading.Lock(), SECONDS[name]
        self.waiting: list[tuple[torch.Tensor, Any]] = []
        self.n, self.since, self.began, self.last = 0, 0, 0.0, 0.0

    def push_pull(self, *gradients: torch.Tensor) -> torch.Tensor:
        """Apply the mean of the gradients; return the weights, or an empty tensor once time is up."""
        with self.lock:
            self.weights.grad = gradients[0] if len(gradients) == 1 else sum(gradients).div_(len(gradients))
            self.own.step()
            self.n, self.last = self.n + len(gradients), time.perf_counter()
            if not self.began and self.n >= WARM_UP:
                self.since, self.began = self.n, self.last
            over = self.began and self.last - self.began > self.seconds
            return torch.empty(0) if over else self.weights.detach().clone()

    def rate(self) -> float:
        return (self.n - self.since) / (self.last - self.began)


class Worker:
    """A net whose weights and gradients are views of one vector each."""

    def __init__(self, name: str, rank: int) -> None:
        torch.set_num_threads(1)
        self.net, x_y, part = module(name), [torch.from_numpy(a) for a in rows(name)], BATCH[name] // 2
        self.weights = nn.utils.parameters_to_vector(self.net.parameters()).detach()
        self.slopes = torch.zeros_like(self.weights)
        nn.utils.vector_to_parameters(self.weights, self.net.parameters())
        start = 0
        for p in self.net.parameters():
            p.grad = self.slopes[start : start + p.numel()].view_as(p)
            start += p.numel()
        starts = range(rank * part, len(x_y[0]) - part + 1, 2 * part)
        self.batches = [[a[i : i + part] for a in x_y] for i in starts]
        self.n = 0

    def gradient(self, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is not None:
            self.weights.copy_(weights)
        x, y = self.batches[self.n % len(self.batches)]
        self.n += 1
        self.slopes.zero_()
        nn.functional.cross_entropy(self.net(x), y).backward()
        return self.slopes


# torch RPC: functions by name, which all processes find in this file


SERVER: list[Server] = []


def rpc_async(gradient: torch.Tensor) -> torch.Tensor:
    return SERVER[0].push_pull(gradient)


@torch.distributed.rpc.functions.async_execution
def rpc_sync(gradient: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    server, own = SERVER[0], torch.futures.Future()
    with server.lock:
        server.waiting.append((gradient, own))
        both, server.waiting = (server.waiting, []) if len(server.waiting) == 2 else ([], server.waiting)
    if both:
        weights = server.push_pull(*(g for g, _ in both))
        for _, future in both:
            future.set_result(weights)
    return own


def rpc(rank: int, kind: str, name: str, port: int) -> None:
    from torch.distributed import rpc as remote

    torch.set_num_threads(1)
    if rank == 0:
        SERVER.append(Server(name))
    options = remote.TensorPipeRpcBackendOptions(num_worker_threads=4, init_method=f"tcp://127.0.0.1:{port}")
    remote.init_rpc(f"rank{rank}", rank=rank, world_size=3, rpc_backend_options=options)
    if rank:
        worker, weights = Worker(name, rank - 1), None
        call = rpc_async if kind == "async" else rpc_sync
        while weights is None or len(weights):
            weights = remote.rpc_sync("rank0", call, args=(worker.gradient(weights),))
    remote.shutdown()
    if rank == 0:
        print(json.dumps({"updates": SERVER[0].rate()}), flush=True)


# Ray: an actor for the server, one for each worker; arrays lie in Ray's store


def ray_rate(kind: str, name: str) -> float:
    import ray

    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR", object_store_memory=3 * 2**30)

    @ray.remote(num_cpus=1)
    class Actor:
        def __init__(self, role: str, rank: int = 0) -> None:
            import _servers as own

            torch.set_num_threads(1)
            self.one: Any = own.Server(name) if role == "server" else own.Worker(name, rank)

        def push_pull(self, *gradients: Any) -> Any:
            return self.one.push_pull(*(torch.from_numpy(g) for g in gradients)).numpy()

        def gradient(self, weights: Any = None) -> Any:
            return self.one.gradient(None if weights is None else torch.from_numpy(weights)).numpy()

        def loop(self, server: Any) -> None:
            weights = None
            while weights is None or len(weights):
                weights = ray.get(server.push_pull.remote(self.gradient(weights)))

        def rate(self) -> float:
            return self.one.rate()

    server, workers = Actor.remote("server"), [Actor.remote("worker", rank) for rank in (0, 1)]
    if kind == "async":
        ray.get([worker.loop.remote(server) for worker in workers])
    else:
        weights, before = None, []
        while weights is None or not before or len(ray.get(before.pop(0))):  # one round is always on its way
            while len(before) < 2:
                weights = server.push_pull.remote(*(worker.gradient.remote(weights) for worker in workers))
                before.append(weights)
    found: float = ray.get(server.rate.remote())
    ray.shutdown()
    return found


# ours


def ours(kind: str, name: str) -> float:
    """Return the updates a second of all epochs but the first one."""
    import tutti

    x, y = rows(name)

    def fit(epochs: int) -> float:
        history = (
            tutti.NeuralNetClassifier(
                module(name),
                loss=nn.CrossEntropyLoss(),  # a loss of its own: "wide" has more outputs than labels
                batch_size=BATCH[name],
                epochs=epochs,
                n_shards=2,
                strategy=tutti.ParameterServer(staleness=0 if kind == "sync" else math.inf),
                engine=tutti.Processes(2, transport="tcp" if kind == "tcp" else "shm"),
                **ours_settings(name),
            )
            .fit(x, y)
            .history_
        )
        first, last = history[0], history[-1]
        return 2 * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])

    steps = -(-len(x) // BATCH[name])
    return fit(max(4, int(SECONDS[name] * fit(4) / 2 / steps) + 2))


def main() -> None:
    system, name = sys.argv[1:]
    library, kind = system.split("-")
    torch.set_num_threads(1)
    if library == "rpc":
        torch.multiprocessing.spawn(rpc, (kind, name, free_port()), nprocs=3)
    else:
        print(json.dumps({"updates": (ray_rate if library == "ray" else ours)(kind, name)}))


if __name__ == "__main__":
    main()
