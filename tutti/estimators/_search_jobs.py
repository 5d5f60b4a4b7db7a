"""The fits of a search, taken out of scikit-learn's hands: collected, looked up in the journal, dealt to workers.

scikit-learn's searches hand their fits to whatever joblib backend is active when ``fit`` begins.  `Jobs` is such a
backend: it waits until all fits of a call are known, groups those that share work, and answers in the order of asking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from joblib import parallel_config
from joblib.parallel import ParallelBackendBase, SequentialBackend

from tutti.estimators._search_journal import Journal
from tutti.estimators._search_path import paths


class Fit:
    """One candidate on one fold: the call that scikit-learn wants made, and what came of it."""

    def __init__(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], call: int) -> None:
        self.function, self.args, self.kwargs, self.call = function, args, kwargs, call
        self.key = ""
        self.outcome: dict[str, Any] | None = None
        self.told: Callable[[], None] | None = None

    def alone(self) -> dict[str, Any]:
        """Make the call as it stands."""
        outcome: dict[str, Any] = _plain(self.function(*self.args, **self.kwargs))
        return outcome

    def bare(self) -> Fit:
        """Return the fit without what only the caller's process has a use for."""
        held: dict[str, Any] = {name: None for name in ("caller", "callback_ctx") if name in self.kwargs}
        return Fit(self.function, self.args, {**self.kwargs, **held}, self.call)


Deal = Callable[[Sequence[Sequence[Fit]], Callable[[Sequence[Fit], list[dict[str, Any]]], None]], None]
"""Has units of fits done, and calls back in the caller's thread with each unit that is done."""


class Jobs(ParallelBackendBase):  # type: ignore[misc]
    """A joblib backend for the searches of scikit-learn.

    Parameters
    ----------
    deal : does the fits.
    journal : where outcomes are kept, and found again after an interruption; or None.
    heard : called with every fit that has an outcome.
    """

    supports_retrieve_callback = False
    supports_sharedmem = True
    uses_threads = True

    def __init__(self, deal: Deal, journal: Journal | None, heard: Callable[[Fit], None]) -> None:
        super().__init__(nesting_level=0)
        self._deal, self._journal, self._heard = deal, journal, heard
        self._waiting: list[Fit] = []
        self._calls = 0
        self._config: Any = None

    def __enter__(self) -> Jobs:
        self._config = parallel_config(backend=self, n_jobs=2)  # with one job joblib would ask no backend
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()
        self._waiting.clear()

    def _leave(self) -> None:
        config, self._config = self._config, None
        if config is not None:
            config.unregister()

    # what joblib asks for

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return 2

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """The search has taken this backend; the refit that follows shall not."""
        self._leave()
        self.parallel = parallel
        return 2

    def get_nested_backend(self) -> tuple[Any, int | None]:
        return SequentialBackend(nesting_level=1), None

    def submit(self, func: Any, callback: Any = None) -> Fit:
        ((function, args, kwargs),) = func.items
        fit = Fit(function, args, kwargs, self._calls)
        fit.told = callback
        self._waiting.append(fit)
        return fit

    def retrieve_result(self, out: Fit, timeout: float | None = None) -> list[dict[str, Any]]:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._calls += 1
            self._do(waiting)
        assert out.outcome is not None
        return [out.outcome]

    # the fits of one call

    def _do(self, fits: list[Fit]) -> None:
        journal = self._journal
        if journal is not None:
            for fit in fits:
                fit.key = journal.key(fit)
        units = [[fits[i] for i in path] for path in paths(fits)]
        missing = []
        for unit in units:
            found = [journal.find(fit.key) for fit in unit] if journal is not None else [None]
            if all(outcome is not None for outcome in found):
                self._take(unit, found)
            else:
                missing.append(unit)

        def done(unit: Sequence[Fit], outcomes: list[dict[str, Any]]) -> None:
            if journal is not None:
                journal.write([(fit.key, fit.kwargs, outcome) for fit, outcome in zip(unit, outcomes, strict=True)])
            self._take(unit, outcomes)

        if missing:
            self._deal(missing, done)

    def _take(self, unit: Sequence[Fit], outcomes: Sequence[Any]) -> None:
        for fit, outcome in zip(unit, outcomes, strict=True):
            fit.outcome = outcome
            self._heard(fit)
            if fit.told is not None:
                fit.told()


def _plain(value: Any) -> Any:
    """Return numbers of numpy as those of Python, the same whether they have travelled or not."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value
