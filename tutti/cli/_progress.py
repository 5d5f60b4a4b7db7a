"""A bar on stderr for what takes longer than a second, on a terminal only; rich is not loaded before it is needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

PATIENCE_SECONDS = 1.0


@contextmanager
def progress(
    label: str, total: int | None, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Give ``advance(n)``; the bar appears at the first call after a second and goes away at the end.

    Parameters
    ----------
    label : what is going on, in two words.
    total : how many `advance` counts to; None if nobody knows.
    """
    began = clock()
    done = 0
    bar: Any = None
    hidden = quiet or not sys.stderr.isatty()
    with ExitStack() as stack:

        def advance(n: int) -> None:
            nonlocal done, bar
            done += n
            if hidden:
                return
            if bar is None and clock() - began >= PATIENCE_SECONDS:
                bar = stack.enter_context(_bar())
                bar.add_task(label, total=total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)

        yield advance


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
