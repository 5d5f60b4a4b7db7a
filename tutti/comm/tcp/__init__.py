"""Sockets as transport: TLS 1.3, one connection for each pair of ranks, or of hosts where several ranks share one.

Who connects the ranks is one of two.  Ranks of one host meet in its shared memory (`tutti.Processes`).  An engine whose
ranks are on several hosts connects them itself and says so by giving them a `PeerLink`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from tutti._frames import Channel
from tutti.protocols import Communicator, Link


class PeerLink(Link, Protocol):
    """The link of a rank whose engine has connected it with the others.

    Contract
    --------
    - ``transport`` is "tcp"; ``allocate`` and the locks are not used, but see ``hosts``.
    - ``peers(among)`` returns one `Channel` to each other rank of ``among`` (None: of all), by rank; just these ranks
      ask, once in a run, before anything else, in no order.  Both ends have proved who they are and know which rank the
      other one is; nothing is queued or half received; connections that may be cut with nobody to say so are guarded
      (`Channel.guard`).  The communicator owns the channels from then on and closes them; a second run needs new ones.
    - ``board`` lies in memory of this process or host.  The engine aborts it when the run is to stop, for whatever
      reason; a rank that waits sees that within 0.05 s.  ``abort()`` reaches the ranks of all hosts through the engine.
    - ``hosts``, if there is such an attribute, lists the ranks of each host, the same list on every rank.  Then
      ``allocate``, ``lock`` and ``board`` are those of all ranks of a host, and only the first of them asks for peers.
    - Closed connections do not say why: a rank that meets one waits 0.2 s for the board to tell, then raises `Aborted`
      and leaves it to the engine to name the guilty rank.
    """

    def peers(self, among: Sequence[int] | None = None) -> Mapping[int, Channel]: ...


def connect_sockets(link: Link) -> Communicator:
    """Return the communicator over the connections of a `PeerLink`, or over those that ranks of one host make now."""
    from tutti.comm.tcp._group import TcpComm
    from tutti.comm.tcp._hosts import HostsComm
    from tutti.comm.tcp._rendezvous import meet

    if not hasattr(link, "peers"):
        return TcpComm(link, meet(link))
    hosts: Sequence[Sequence[int]] = getattr(link, "hosts", ())
    if any(len(ranks) > 1 for ranks in hosts):
        return HostsComm(cast(PeerLink, link), hosts)
    return TcpComm(link, cast(PeerLink, link).peers())
