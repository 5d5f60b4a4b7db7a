"""Whether this thread is busy with a task of a run already: a fit inside it is given no workers of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()


def inside() -> bool:
    """Tell whether this thread performs a task, beside which others may run on the other cores."""
    return getattr(_here, "depth", 0) > 0


@contextmanager
def task() -> Iterator[None]:
    """Context of a task; ``engine="auto"`` means one worker inside it."""
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
