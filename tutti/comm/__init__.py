"""How arrays travel between ranks: in shared memory (threads, processes of one host), over sockets, or through
torch.distributed.
"""

from __future__ import annotations

from typing import cast

from tutti.protocols import Communicator, Link, ThreadLink


def connect(link: Link, *, calls: bool = False) -> Communicator:
    """Return the communicator that fits the link an engine gave to a rank.

    Parameters
    ----------
    calls : over sockets, ranks ask one another (`tutti.calling.Calls`) and make no collective calls.

    Raises
    ------
    ValueError : if ``link.transport`` is none of "threads", "shm", "tcp", "gloo", "nccl".
    PlanError : if what a transport needs is not there.
    """
    if link.transport == "threads":
        from tutti.comm.threads import ThreadComm

        return ThreadComm(cast(ThreadLink, link))
    if link.transport == "shm":
        from tutti.comm.shm import ShmComm

        return ShmComm(link)
    if link.transport == "tcp" and calls:
        from tutti.comm.tcp._visits import CallComm

        return CallComm(link)
    if link.transport == "tcp":
        from tutti.comm.tcp import connect_sockets

        return connect_sockets(link)
    if link.transport in ("gloo", "nccl"):
        from tutti.comm.torch import connect_group

        return connect_group(link)
    raise ValueError(f"transport {link.transport!r} is unknown; expected 'threads', 'shm', 'tcp', 'gloo' or 'nccl'")
