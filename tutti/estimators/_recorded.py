"""What an estimator has to do with records of asynchronous runs: seal them, and keep what a replay shows."""

from __future__ import annotations

from typing import Any

from tutti.types import Array, Arrays


def parted(arrays: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the state of a training, and by parameter what the last update of a replay moved along."""
    from tutti.strategies._replayed import GRADIENT

    state = {name: array for name, array in arrays.items() if not name.startswith(GRADIENT)}
    return state, {name.removeprefix(GRADIENT): arrays[name] for name in arrays.keys() - state.keys()}


def one_fit(strategy: Any) -> bool:
    """Return True if a strategy records or repeats a run, which is one fit."""
    return hasattr(strategy, "seal") and getattr(strategy, "record", "") is not None


def seal(strategy: Any, steps: int, sha256: str) -> None:
    """Tell a strategy that records or repeats after how many steps which model came out."""
    told = getattr(strategy, "seal", None)
    if told is not None:
        told(steps, sha256)
