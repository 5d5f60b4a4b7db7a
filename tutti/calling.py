"""How ranks ask one another, each at its own pace: a rank that serves takes requests, the others call it.

Every request is carried out once, however often a connection breaks on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt


class Reply(Protocol):
    """A kind, and bytes that are valid until the caller's next request."""

    @property
    def kind(self) -> int: ...
    @property
    def payload(self) -> memoryview: ...


class Asked(Protocol):
    """A request: who calls, of which kind it is, and bytes that are valid until it is answered."""

    @property
    def caller(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def body(self) -> memoryview: ...


class Asking(Protocol):
    """Calls one rank: ``ask`` begins a request, whose memory stays as it is until the reply is there."""

    def ask(self, kind: int, *payload: Any) -> None: ...


class Answering(Protocol):
    """Takes requests.  ``wait`` returns those that have come, ``reply`` answers one, later; ``forget`` drops
    what is kept for a caller that does not come back."""

    def wait(self, seconds: float) -> Sequence[Asked]: ...
    def reply(self, request: Any, kind: int, *payload: Any) -> None: ...
    def forget(self, caller: bytes) -> None: ...


@runtime_checkable
class Calls(Protocol):
    """What a rank has whose `Seat` has a role, where ranks see no common memory.

    Contract
    --------
    - ``answering(max_bytes)`` begins to take requests of at most so many bytes.
    - ``asking(rank, max_bytes)`` calls that rank, whose replies have at most so many bytes; it may be a while until
      that one begins to answer, or does so again after it was lost and started anew.
    - ``answers`` waits for the replies to one request of each; it raises `Aborted` if the run was stopped, and
      `RunError` if a rank that is asked was lost for good or does not answer.
    - ``memory(n_bytes)`` is memory of this seat: another process that takes it finds there what this one left, while
      ``run`` is the same.  Every rank that asks for it asks for the same size, once.
    - ``gone(rank)`` tells that a rank has returned or is lost: it asks nothing, unless another process takes its seat.
    """

    @property
    def run(self) -> int: ...
    def answering(self, max_bytes: int) -> Answering: ...
    def asking(self, rank: int, max_bytes: int) -> Asking: ...
    def answers(self, callers: Sequence[Any]) -> Sequence[Reply]: ...
    def memory(self, n_bytes: int) -> npt.NDArray[Any]: ...
    def gone(self, rank: int) -> bool: ...
