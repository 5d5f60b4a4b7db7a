"""Process groups of torch.distributed as transport (extra ``[torch]``): gloo over sockets, nccl between GPUs."""

from __future__ import annotations

import importlib.util

from tutti.errors import PlanError
from tutti.protocols import Communicator, Link


def connect_group(link: Link) -> Communicator:
    """Return the communicator over the process group that ``link.transport`` names, "gloo" or "nccl".

    Raises
    ------
    PlanError : if torch is not installed, or if there are fewer GPUs than ranks for "nccl".
    """
    if importlib.util.find_spec("torch") is None:
        raise PlanError(
            f'transport="{link.transport}" needs torch, which is not installed; '
            'run pip install "tutti[torch]", or write transport="shm"'
        )
    from tutti.comm.torch._rendezvous import meet

    return meet(link)


def register() -> None:
    """Make "tutti" known to torch.distributed as a backend; calling it twice is harmless."""
    from tutti.comm.torch._backend import register as now

    now()
