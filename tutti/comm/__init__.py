"""How arrays travel between ranks: one algorithm in shared memory, for threads and for processes of one host."""

from __future__ import annotations

from typing import cast

from tutti.protocols import Communicator, Link, ThreadLink


def connect(link: Link) -> Communicator:
    """Return the communicator that fits the link an engine gave to a rank.

    Raises
    ------
    ValueError : if ``link.transport`` is none of "threads", "shm".
    """
    if link.transport == "threads":
        from tutti.comm.threads import ThreadComm

        return ThreadComm(cast(ThreadLink, link))
    if link.transport == "shm":
        from tutti.comm.shm import ShmComm

        return ShmComm(link)
    raise ValueError(f"transport {link.transport!r} is unknown; expected 'threads' or 'shm'")
