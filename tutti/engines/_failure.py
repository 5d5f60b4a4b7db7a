"""What a rank raised, once it has come back from another process."""

from __future__ import annotations

from tutti.engines import _wire
from tutti.engines._common import stopped
from tutti.engines._judge import Raised
from tutti.errors import RankError


def failure_of(verdict: Raised, where: tuple[int, str, int, int]) -> Exception:
    """Return the exception for the caller; ``where`` is rank, host, pid and step."""
    failure = verdict.failure
    if verdict.secondary:
        return stopped()
    if failure["input"] is not None:
        return _wire.unpack_error(failure["input"])
    return RankError(*where, failure["what"], failure["trace"])
