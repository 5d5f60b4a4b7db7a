"""Parts that several threads of a process see are put together once, by the first of them: the model is there once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutti.learners._trees import Trees
from tutti.types import Arrays

_lock = threading.Lock()
_at_work: dict[int, _Work] = {}
"""By the address of the parts: it names them for as long as one of those who read them is here."""


@dataclass
class _Work:
    lock: threading.Lock = field(default_factory=threading.Lock)
    here: int = 0
    trees: Trees | None = None


def put_together(parts: Sequence[Arrays], n_outputs: int) -> Trees:
    """Return `Trees.of_parts`; who calls it for the same memory while another is at it gets the same arrays."""
    address = parts[0]["feature"].__array_interface__["data"][0]
    with _lock:
        work = _at_work.setdefault(address, _Work())
        work.here += 1
    try:
        with work.lock:
            if work.trees is None:
                work.trees = Trees.of_parts(parts, n_outputs)
            return work.trees
    finally:
        with _lock:
            work.here -= 1
            if not work.here:
                del _at_work[address]
