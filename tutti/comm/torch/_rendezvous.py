"""How the ranks of an engine on one host form a process group.

They meet in shared memory first, where rank 0 says at which port it listens; the system chose it, it is open on the
loopback interface alone, and closed as soon as all ranks are connected.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tutti.comm.shm import ShmComm
from tutti.comm.torch._group import TorchComm
from tutti.errors import PlanError
from tutti.protocols import Link

_HOME = "127.0.0.1"
_MEET = timedelta(seconds=60)
_FOR_EVER = timedelta(days=1)  # a rank may be late; the engine and the board say if it is lost


def meet(link: Link) -> TorchComm:
    """Form the group that ``link.transport`` names; every rank calls it."""
    device = None
    if link.transport == "nccl":
        found = torch.cuda.device_count() if dist.is_nccl_available() else 0
        if found < link.size:
            raise PlanError(
                f'transport="nccl" needs a GPU for each of the {link.size} ranks, and torch {torch.__version__} sees '
                f'{found}; write transport="gloo" or "shm"'
            )
        device = torch.device("cuda", link.rank)
    if link.size == 1:
        return TorchComm(link, None, device)
    first = ShmComm(link)
    server = _server(link.size) if link.rank == 0 else None
    port = int(first.all_gather(b"" if server is None else str(server.port).encode())[0])
    store = server or dist.TCPStore(_HOME, port, link.size, False, _MEET, wait_for_workers=False)
    group = _group(store, link, device)
    first.barrier()
    first.close()
    return TorchComm(link, group, device)


def _server(size: int) -> Any:
    with socket.create_server((_HOME, 0)) as listening:
        port, fd = listening.getsockname()[1], os.dup(listening.fileno())
    return dist.TCPStore(_HOME, port, size, True, _MEET, wait_for_workers=False, master_listen_fd=fd, use_libuv=False)


def _group(store: Any, link: Link, device: Any) -> Any:
    if device is not None:
        torch.cuda.set_device(device)
        return dist.ProcessGroupNCCL(store, link.rank, link.size, _FOR_EVER)
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_HOME)]
    options._timeout = _FOR_EVER
    return dist.ProcessGroupGloo(store, link.rank, link.size, options)
