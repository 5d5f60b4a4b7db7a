"""One line per fit that tells how far it is: only on a terminal, and only once a fit takes longer than a second."""

from __future__ import annotations

import math
import time
from typing import Any, Self

from tutti.types import Event, Round, TaskDone

PATIENCE_SECONDS = 1.0


class RoundProgress:
    """Watches events; use as a context manager around the run.

    Parameters
    ----------
    label : what is being fitted.
    verbose : False keeps quiet.
    console : a rich Console; made on first use if None.
    """

    def __init__(self, label: str, verbose: bool, console: Any = None) -> None:
        self._label, self._verbose, self._console = label, verbose, console
        self._live: Any = None
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show the round if the fit has outlasted the patience."""
        seconds = time.perf_counter() - self._began
        if self._verbose and isinstance(event, Round) and seconds >= PATIENCE_SECONDS:
            self._show(self._line(event, seconds))

    def _show(self, line: str) -> None:
        if self._live is None:
            self._live = self._start()
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line), refresh=True)

    def _start(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            self._verbose = False
            return None
        live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        live.start()
        return live

    def _line(self, event: Round, seconds: float) -> str:
        gap = event.gap / max(abs(event.objective), 1e-300)
        certified = f"certified within {gap:.1e}" if math.isfinite(gap) else "not certified yet"
        return (
            f"{self._label}  round {event.step}  {seconds:.1f} s  {event.passes:.1f} passes  "
            f"objective {event.objective:.8g}  {certified}"
        )


class TreeProgress(RoundProgress):
    """The line of a fit that grows trees round by round.

    Parameters
    ----------
    rounds : of the whole fit.
    """

    def __init__(self, label: str, verbose: bool, rounds: int, console: Any = None) -> None:
        super().__init__(label, verbose, console)
        self._rounds = rounds

    def _line(self, event: Round, seconds: float) -> str:
        shown = [f"loss {event.objective:.4g}", *(f"{k} {v:.4g}" for k, v in event.metrics.items())]
        left = event.seconds / max(event.step, 1) * max(self._rounds - event.step, 0)
        return f"{self._label}  round {event.step}/{self._rounds}  {'  '.join(shown)}  {left:.0f} s left"


class EpochProgress(RoundProgress):
    """The line of a training in epochs: loss, what validation says, rows a second, time left.

    Parameters
    ----------
    epochs : of the whole training.   n_rows : rows of an epoch.
    """

    def __init__(self, label: str, verbose: bool, epochs: int, n_rows: int, console: Any = None) -> None:
        super().__init__(label, verbose, console)
        self._epochs, self._n_rows = epochs, n_rows

    def _line(self, event: Round, seconds: float) -> str:
        done = max(event.passes, 1e-9)
        shown = [f"loss {event.objective:.4g}", *(f"{k} {v:.4g}" for k, v in event.metrics.items() if k != "lr")]
        left = event.seconds / done * max(self._epochs - done, 0.0)
        speed = self._n_rows * done / max(event.seconds, 1e-9)
        where = f"{self._label}  epoch {done:.0f}/{self._epochs}"
        return f"{where}  {'  '.join(shown)}  {speed:,.0f} rows/s  {left:.0f} s left"


class TaskProgress(RoundProgress):
    """The line of a fit in tasks: how many of its stage are done."""

    def __call__(self, event: Event) -> None:
        """Show the tasks if the fit has outlasted the patience."""
        seconds = time.perf_counter() - self._began
        if not self._verbose or not isinstance(event, TaskDone) or seconds < PATIENCE_SECONDS:
            return
        if self._live is None:
            self._live = self._start()
        if self._live is not None:
            from rich.text import Text

            stage = f"stage {event.stage + 1}  {event.done}/{event.total} tasks"
            self._live.update(Text(f"{self._label}  {stage}  {seconds:.1f} s"), refresh=True)
