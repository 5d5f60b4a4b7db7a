"""Sockets as transport: one connection for each pair of ranks, TLS 1.3 on both sides unless they stay on loopback.

Who connects the ranks is one of two.  Ranks of one host meet in its shared memory (`tutti.Processes`).  An engine whose
ranks are on several hosts connects them itself and says so by giving them a `PeerLink`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from tutti._frames import Channel
from tutti.protocols import Communicator, Link


class PeerLink(Link, Protocol):
    """The link of a rank whose engine has connected it with the others.

    Contract
    --------
    - ``transport`` is "tcp"; ``allocate`` and ``lock`` are not used.
    - ``peers()`` returns one `Channel` to each other rank, by rank.  Both ends have proved who they are and know which
      rank the other one is; nothing is queued on it or half received.  The communicator owns it from then on and
      closes it.  Ranks ask once in a run, before anything else, in no order; a second run needs new connections.
    - ``board`` lies in memory of this process or host.  The engine aborts it when the run is to stop, for whatever
      reason; a rank that waits sees that within 0.05 s.  ``abort()`` reaches the ranks of all hosts through the engine.
    - Closed connections do not say why: a rank that meets one waits 0.2 s for the board to tell, then raises `Aborted`
      and leaves it to the engine to name the guilty rank.
    """

    def peers(self) -> Mapping[int, Channel]: ...


def connect_sockets(link: Link) -> Communicator:
    """Return the communicator over the connections of a `PeerLink`, or over those that ranks of one host make now."""
    from tutti.comm.tcp._group import TcpComm
    from tutti.comm.tcp._rendezvous import meet

    return TcpComm(link, cast(PeerLink, link).peers() if hasattr(link, "peers") else meet(link))
