"""Views: which rows of a source a data set uses, as inert descriptions that are evaluated on the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutti.data import shards
from tutti.errors import ParameterError
from tutti.types import Array


@dataclass(frozen=True)
class Split:
    """One side of a train / test split."""

    test_size: float | int
    seed: int
    stratify: bool
    side: Literal["train", "test"]

    def rows(self, n_rows: int, codes: Callable[[], Array]) -> Array:
        """Return the sorted rows of this side; ``codes`` gives the class of each of the ``n_rows``."""
        _, n_test = shards.split_sizes(n_rows, self.test_size)
        test = shards.held_out_rows(n_rows, n_test, self.seed, codes() if self.stratify else None)
        if self.side == "test":
            return test
        keep = np.ones(n_rows, dtype=bool)
        keep[test] = False
        return np.flatnonzero(keep)


@dataclass(frozen=True)
class Resample:
    """All classes equally frequent."""

    how: Literal["oversample", "undersample"]
    seed: int

    def __post_init__(self) -> None:
        if self.how not in ("oversample", "undersample"):
            raise ParameterError("how", self.how, 'write "oversample" or "undersample"')

    def rows(self, n_rows: int, codes: Callable[[], Array]) -> Array:
        """Return the sorted rows, with repetitions when oversampling."""
        return shards.resample_rows(codes(), self.how, self.seed)


View = Split | Resample
