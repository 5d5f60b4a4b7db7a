"""One line per search: how many fits are done, and the best candidate so far."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

from tutti.estimators._progress import PATIENCE_SECONDS, RoundProgress


class SearchProgress(RoundProgress):
    """Hears of every fit; use as a context manager around the search.

    Candidates count as soon as one of their folds is known; with several scores the first one is shown.
    """

    def __init__(self, label: str, verbose: bool, console: Any = None) -> None:
        super().__init__(label, verbose, console)
        self._scores: dict[tuple[int, int], list[float]] = defaultdict(list)
        self._shown: dict[tuple[int, int], str] = {}

    def add(self, fit: Any) -> None:
        """Count a fit, and show the line if the search has outlasted the patience."""
        if not self._verbose:
            return
        candidate, of = fit.kwargs["candidate_progress"]
        score = fit.outcome["test_scores"]
        value = next(iter(score.values())) if isinstance(score, dict) else score
        key = (fit.call, candidate)
        self._scores[key].append(value if isinstance(value, int | float) else math.nan)
        self._shown[key] = ", ".join(f"{name}={value!r}" for name, value in (fit.kwargs["parameters"] or {}).items())
        seconds = time.perf_counter() - self._began
        if seconds >= PATIENCE_SECONDS:
            self._show(self._text(of * fit.kwargs["split_progress"][1], fit.call, seconds))

    def _text(self, n_fits: int, call: int, seconds: float) -> str:
        means = {key: sum(v) / len(v) for key, v in self._scores.items() if key[0] == call}
        best = max(means, key=lambda key: means[key] if means[key] == means[key] else -math.inf)
        done = sum(len(v) for key, v in self._scores.items() if key[0] == call)
        return f"{self._label}  {done}/{n_fits} fits  {seconds:.1f} s  best {means[best]:.5g} with {self._shown[best]}"
