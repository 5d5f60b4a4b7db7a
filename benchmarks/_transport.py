"""One transport alone: all_reduce by size, barriers, and a waiter's processor time; prints a JSON line.

usage: python benchmarks/_transport.py {ours,gloo}          or under mpirun: _transport.py mpi         2 processes
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = {"4 KB": 1 << 10, "100 KB": 25 << 10, "1 MB": 1 << 18, "10 MB": 10 << 18, "100 MB": 100 << 18}  # float32
REPEATS = {"4 KB": 3000, "100 KB": 1500, "1 MB": 500, "10 MB": 60, "100 MB": 10}
LATE_SECONDS = 0.02


def milliseconds(call: Callable[[], Any], n: int) -> float:
    """Median duration of a call, the first tenth left out."""
    times = []
    for _ in range(n + n // 10 + 2):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times[-n:])) * 1e3


def around(barrier: Callable[[], Any], rank: int) -> dict[str, float]:
    """Median duration of a barrier, and the processor time of a rank that waits for a late one."""
    burnt = []
    for _ in range(30):
        barrier()
        began = time.process_time()
        if rank:
            time.sleep(LATE_SECONDS)
        barrier()
        burnt.append(time.process_time() - began)
    return {"barrier": milliseconds(barrier, 3000), "burnt": float(np.median(burnt)) * 1e3}


def program(context: Any) -> dict[str, float]:
    """Our communicator between the processes of an engine: arrays of one's own, and rows of the segment."""
    from tutti.comm import connect

    comm = connect(context.link)
    rank, found = comm.rank, {}
    for name, length in SIZES.items():
        mine, out = np.ones(length, np.float32), np.empty(length, np.float32)
        rows = comm.slots(2, length, np.float32)
        rows[rank] = 1.0
        found[f"copied {name}"] = milliseconds(
            lambda mine=mine, out=out: comm.all_reduce_into({rank: mine}, 2, out), REPEATS[name]
        )
        assert (out == 2.0).all()
        found[f"in place {name}"] = milliseconds(
            lambda rows=rows: comm.all_reduce({rank: rows[rank]}, 2), REPEATS[name]
        )
    return found | around(comm.barrier, rank)


def ours() -> dict[str, float]:
    from tutti.engines.processes import Processes
    from tutti.protocols import Program
    from tutti.types import Place, Plan, Seat

    seats = tuple(Seat(rank, Place(socket.gethostname()), (rank,)) for rank in range(2))
    plan = Plan("none", "none", "none", "a benchmark", seats, 2)
    return Processes(2).launch(Program("_transport:program"), plan).results()[0]


def torch_group(backend: str) -> dict[str, float]:
    """A process group of torch.distributed, called as DDP calls it."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if backend == "tutti":
        import tutti.torch_backend  # noqa: F401
    dist.init_process_group(backend)
    found = {}
    for name, length in SIZES.items():
        mine = torch.zeros(length)
        found[f"copied {name}"] = milliseconds(lambda mine=mine: dist.all_reduce(mine), REPEATS[name])
    return found | around(dist.barrier, dist.get_rank())


def mpi() -> dict[str, float]:
    from mpi4py import MPI

    world, found = MPI.COMM_WORLD, {}
    for name, length in SIZES.items():
        mine, out = np.ones(length, np.float32), np.zeros(length, np.float32)
        found[f"copied {name}"] = milliseconds(lambda mine=mine, out=out: world.Allreduce(mine, out), REPEATS[name])
    return found | around(world.Barrier, world.rank)


def torchrun(system: str) -> None:
    """Start both ranks of a torch group by hand; rank 0 prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [subprocess.Popen([sys.executable, __file__, system], env={**env, "RANK": str(r)}) for r in range(2)]
    sys.exit(max(abs(rank.wait()) for rank in ranks))


def main() -> None:
    system = sys.argv[1]
    if system in ("gloo", "tutti") and "RANK" not in os.environ:
        torchrun(system)
    found = mpi() if system == "mpi" else ours() if system == "ours" else torch_group(system)
    if os.environ.get("RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == "0":
        print(json.dumps(found), flush=True)
    if system in ("gloo", "tutti"):
        sys.stdout.flush()
        os._exit(0)  # gloo's threads may end the process with an error when the group is taken apart


if __name__ == "__main__":
    main()
