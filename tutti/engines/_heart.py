"""Whether the other end of a connection is there, decided without a clock or a socket: beats in, silence out.

Every beat carries a number and the number of the last beat that came from the other side; so each side knows that its
own beats arrive, and a connection that is cut in one direction alone is noticed at both ends.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_BEAT = struct.Struct("<QQ")
_EVERY_SECONDS = 0.2
_LOOK_SECONDS = 0.5  # longest time between two looks that counts: a process that was frozen itself blames nobody


@dataclass
class Heart:
    """One end of a connection.

    Parameters
    ----------
    timeout_seconds : silence that is forgiven.   now : time of the first look.
    """

    timeout_seconds: float
    now: float
    silence: float = 0.0
    _due: float = field(default=0.0)
    _sent: int = 0
    _heard: int = 0
    _answered: int = 0

    def beat(self, now: float) -> bytes | None:
        """Return the beat that is due; None if none is."""
        if now < self._due:
            return None
        self._due, self._sent = now + _EVERY_SECONDS, self._sent + 1
        return _BEAT.pack(self._sent, self._heard)

    def take(self, beat: bytes | memoryview) -> None:
        """Take a beat of the other side.  Raises ValueError for what is none."""
        try:
            number, answer = _BEAT.unpack(beat)
        except struct.error as error:
            raise ValueError("a beat has two numbers") from error
        if not answer <= self._sent:
            raise ValueError("a beat answers one that was never sent")
        self._heard = max(self._heard, number)
        if answer > self._answered:
            self._answered, self.silence = answer, 0.0

    def moved(self) -> None:
        """Note that part of a large message has just travelled, for which beats have to wait."""
        self.silence = 0.0

    def look(self, now: float) -> bool:
        """Return False if the other side has been silent for too long."""
        passed, self.now = min(max(now - self.now, 0.0), _LOOK_SECONDS), now
        self.silence += passed
        return self.silence <= self.timeout_seconds
