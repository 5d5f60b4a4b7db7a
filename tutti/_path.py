"""Whether packets still come through to the other end of a connection, as the systems of both ends tell.

The other system acknowledges what arrives however busy the process there is: so what stays without an answer tells a
connection that was cut, with nobody to say so, from a peer that takes its time.  An idle connection is probed, too.
"""

from __future__ import annotations

import math
import socket
import struct
import time

_INFO = struct.Struct("=8B24I")  # the beginning of Linux's struct tcp_info
_PROBES, _BACKOFF, _UNACKED, _HEARD = 3, 4, 8 + 4, 8 + 12  # of its fields; milliseconds since the last answer
_LOOK_SECONDS = 0.5  # longest time between two looks that counts: a process that was frozen itself blames nobody
_MOST_PROBES = 127


class Path:
    """The way to the peer of a socket.

    Parameters
    ----------
    sock : connected.   timeout_seconds : how long an answer may take.
    """

    def __init__(self, sock: socket.socket, timeout_seconds: float) -> None:
        self._sock, self.timeout_seconds = sock, timeout_seconds
        self.silence, self._looked = 0.0, time.monotonic()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        most = min(math.ceil(timeout_seconds) + 1, _MOST_PROBES)  # where nobody looks, the system gives up then
        for name, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", most)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def look(self) -> bool:
        """Return False if the other system has left something without an answer for too long."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LOOK_SECONDS), now
        heard = self._unanswered()
        self.silence = 0.0 if heard is None else min(self.silence + passed, heard)
        return self.silence <= self.timeout_seconds

    def _unanswered(self) -> float | None:
        """Return how many seconds ago the last answer came; None if none is due.

        A peer that has no room for more is not asked but now and then, and ever more rarely: it asks itself when it
        waits for us.
        """
        if not hasattr(socket, "TCP_INFO"):
            return None  # the system's own probes are all there is
        info = _INFO.unpack_from(self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
        asked = info[_UNACKED] or (info[_PROBES] and not info[_BACKOFF])
        return info[_HEARD] / 1e3 if asked else None
